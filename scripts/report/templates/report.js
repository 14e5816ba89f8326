"use strict";
(() => {
  const $ = (selector, from = document) => from.querySelector(selector);
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  const say = (text) => { $("#said").textContent = text; };
  const stored = {
    get(key) { try { return localStorage.getItem(key); } catch { return null; } },
    set(key, value) { try { localStorage.setItem(key, value); } catch { /* a page without storage forgets */ } },
  };

  // colours
  const root = document.documentElement;
  const themes = ["", "light", "dark"];
  const named = { "": "as the system", light: "light", dark: "dark" };
  function theme(name) {
    if (name) root.dataset.theme = name; else delete root.dataset.theme;
    $("#theme").setAttribute("aria-label", `Colours: ${named[name]}`);
    stored.set("diptych-theme", name);
  }
  theme(themes.includes(stored.get("diptych-theme")) ? stored.get("diptych-theme") : "");
  function nextTheme() {
    const name = themes[(themes.indexOf(root.dataset.theme ?? "") + 1) % themes.length];
    theme(name);
    say(`Colours: ${named[name]}`);
  }
  $("#theme").addEventListener("click", nextTheme);
  $("#help").addEventListener("click", () => $("#keys").showModal());

  // tabs of a system's page
  const tabs = all('[role="tab"]');
  function open(name, focus = false) {
    for (const tab of tabs) {
      const chosen = tab.getAttribute("aria-controls") === name;
      tab.setAttribute("aria-selected", String(chosen));
      tab.tabIndex = chosen ? 0 : -1;
      document.getElementById(tab.getAttribute("aria-controls")).hidden = !chosen;
      if (chosen && focus) tab.focus();
    }
  }
  for (const tab of tabs) {
    tab.addEventListener("click", (event) => {
      event.preventDefault();
      open(tab.getAttribute("aria-controls"));
      history.replaceState(null, "", tab.getAttribute("href"));
    });
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const next = tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length];
      open(next.getAttribute("aria-controls"), true);
    });
  }

  // an address such as #tf-12,pt-14 leads to lines of both files
  const pattern = /^((tf|pt)-\d+)(,(tf|pt)-\d+)*$/;
  function follow() {
    const hash = decodeURIComponent(location.hash.slice(1));
    const names = pattern.test(hash) ? hash.split(",") : [hash];
    const targets = names.map((name) => document.getElementById(name)).filter(Boolean);
    all(".l.lit").forEach((line) => line.classList.remove("lit"));
    if (!hash || !targets.length) return false;
    const panel = targets[0].closest(".panel");
    if (panel) open(panel.id);
    if (targets[0] === panel) return true;
    if (targets[0].matches(".l")) targets.forEach((line) => line.classList.add("lit"));
    const middle = targets[0].matches(".l");
    targets[0].scrollIntoView({ block: middle ? "center" : "start" });
    mark(targets[0].closest(".row"));
    if (menu) menu.open = false;
    if (targets[0].matches(".l")) say(`Lines ${targets.map((line) => line.dataset.n).join(" and ")}`);
    return true;
  }
  addEventListener("hashchange", follow);
  document.addEventListener("click", (event) => { // the same address again
    const link = event.target.closest('a[href^="#"]:not([role="tab"])');
    if (link && link.getAttribute("href") === location.hash) follow();
  });

  const menu = $(".outline");
  document.addEventListener("click", (event) => { if (menu && !menu.contains(event.target)) menu.open = false; });

  // definitions, one by one
  const definitions = all(".code .row[id]");
  let current = null;
  function mark(row) {
    if (current) current.classList.remove("here");
    current = definitions.includes(row) ? row : null;
    if (current) current.classList.add("here");
  }
  function step(by) {
    if (!definitions.length) return;
    open("source");
    const at = current ? definitions.indexOf(current) + by : by > 0 ? 0 : definitions.length - 1;
    const row = definitions[Math.min(Math.max(at, 0), definitions.length - 1)];
    mark(row);
    row.scrollIntoView({ block: "start" });
    say(row.id.replace("def-", ""));
  }

  // side by side or stacked
  const code = $("#code");
  const narrow = matchMedia("(max-width: 62rem)");
  function layout(name, keep = true) {
    if (!code) return;
    code.dataset.layout = name;
    all("[data-layout]", $(".choice")).forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.layout === name)));
    if (keep) stored.set("diptych-layout", name);
  }
  function fitting() { return stored.get("diptych-layout") || (narrow.matches ? "stacked" : "beside"); }
  if (code) {
    layout(fitting(), false);
    narrow.addEventListener("change", () => layout(fitting(), false));
    all(".choice button").forEach((button) => button.addEventListener("click", () => layout(button.dataset.layout)));
  }

  // the text of a file, from its lines; blank lines between definitions are not on the page
  function text(side) {
    const lines = [];
    for (const line of all(`.l[id^="${side}-"]`)) {
      const copy = line.cloneNode(true);
      all(".mark", copy).forEach((mark) => mark.remove());
      lines[Number(line.dataset.n) - 1] = copy.textContent;
    }
    return `${Array.from(lines, (line) => line ?? "").join("\n")}\n`;
  }
  async function copied(value) {
    try {
      await navigator.clipboard.writeText(value);
    } catch {
      const area = document.createElement("textarea");
      area.value = value;
      document.body.append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      if (!done) throw new Error("the browser refused");
    }
  }
  for (const button of all(".copy")) {
    button.addEventListener("click", async () => {
      try {
        await copied(text(button.dataset.side));
        button.textContent = "Copied";
        say("The file is copied");
      } catch {
        button.textContent = "Not copied";
        say("The browser refused to copy");
      }
      setTimeout(() => { button.textContent = "Copy file"; }, 1500);
    });
  }

  // one case at a time
  const pickers = all(".case-picker");
  function pick(name) {
    for (const picker of pickers) picker.value = name;
    for (const article of all("article.case")) article.hidden = pickers.length > 0 && article.dataset.case !== name;
  }
  if (pickers.length) {
    pick(pickers[0].value);
    pickers.forEach((picker) => picker.addEventListener("change", () => pick(picker.value)));
  }

  // a bar leads where the name of its row leads
  for (const row of all("tr:has(.jump)")) {
    row.addEventListener("click", (event) => {
      if (!event.target.closest("a, button") && !String(getSelection())) $(".jump", row).click();
    });
  }

  // tables that sort
  for (const table of all("table.sortable")) {
    const body = table.tBodies[0];
    const given = [...body.rows];
    all("th[data-sort]", table.tHead).forEach((head) => {
      const column = head.cellIndex;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const before = head.getAttribute("aria-sort");
        const numbers = head.dataset.sort === "number";
        const first = numbers ? "descending" : "ascending";
        const order = before === null ? first : before === first ? (numbers ? "ascending" : "descending") : null;
        all("th", table.tHead).forEach((other) => other.removeAttribute("aria-sort"));
        const value = (row) => {
          const cell = row.cells[column];
          return numbers ? Number(cell.dataset.value) : cell.textContent.trim();
        };
        const sign = order === "descending" ? -1 : 1;
        const rows = order === null ? given : [...given].sort((a, b) => {
          const [x, y] = [value(a), value(b)];
          return sign * (numbers ? x - y : x < y ? -1 : x > y ? 1 : 0);
        });
        if (order) head.setAttribute("aria-sort", order);
        body.append(...rows);
      });
    });
  }

  // search and filters
  const search = $("#search");
  const words = () => search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const counted = (n, what) => { $("#count").textContent = `${n} ${what}${n === 1 ? "" : "s"}`; };
  let refresh = () => {};
  const data = $("#systems");
  if (data) {
    const systems = JSON.parse(data.textContent).map((entry) => ({ ...entry, row: document.getElementById(entry.id) }));
    const filters = ["family", "kind", "state"];
    refresh = () => {
      const wanted = words();
      const chosen = Object.fromEntries(filters.map((name) => [name, document.getElementById(name).value]));
      let shown = 0;
      for (const entry of systems) {
        const fits = wanted.every((word) => entry.words.includes(word))
          && (!chosen.family || entry.row.dataset.family === chosen.family)
          && (!chosen.kind || entry.kind === chosen.kind)
          && (!chosen.state || entry.state === chosen.state);
        entry.row.hidden = !fits;
        shown += fits;
      }
      for (const section of all(".family[data-family]")) {
        section.hidden = !all("tbody tr", section).some((row) => !row.hidden);
      }
      $(".family.shared").hidden = wanted.length > 0 || filters.some((name) => chosen[name]);
      $("#nothing").hidden = shown > 0;
      counted(shown, "system");
      const state = new URLSearchParams({ ...(search.value && { q: search.value }), ...Object.fromEntries(filters.filter((name) => chosen[name]).map((name) => [name, chosen[name]])) });
      history.replaceState(null, "", state.size ? `#${state}` : location.pathname);
    };
    const given = new URLSearchParams(location.hash.slice(1));
    search.value = given.get("q") ?? "";
    for (const name of filters) {
      const select = document.getElementById(name);
      const value = given.get(name) ?? "";
      if ([...select.options].some((option) => option.value === value)) select.value = value;
      select.addEventListener("change", refresh);
    }
    $("#clear").addEventListener("click", () => {
      search.value = "";
      filters.forEach((name) => { document.getElementById(name).value = ""; });
      refresh();
      search.focus();
    });
    search.addEventListener("input", refresh);
    refresh();
  } else if (search) {
    refresh = () => {
      const wanted = words();
      let shown = 0;
      for (const entry of all(".idiom")) {
        entry.hidden = !wanted.every((word) => entry.dataset.words.includes(word));
        shown += !entry.hidden;
      }
      for (const section of all("section.topic")) section.hidden = !all(".idiom", section).some((entry) => !entry.hidden);
      counted(shown, "difference");
    };
    search.addEventListener("input", refresh);
    refresh();
  }
  function move(by) {
    const links = all(".systems .name").filter((link) => link.closest("tr").hidden === false);
    if (!links.length) return;
    const at = links.indexOf(document.activeElement);
    (links[at + by] ?? (by < 0 && at <= 0 ? search : links[at] ?? links[0])).focus();
  }

  // keys
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || $("#keys").open) return;
    const typing = event.target.closest("input, select, textarea");
    if (data && ["ArrowDown", "ArrowUp"].includes(event.key) && (!typing || typing === search)) {
      if (typing === search || event.target.matches(".name")) {
        event.preventDefault();
        move(event.key === "ArrowDown" ? 1 : -1);
      }
      return;
    }
    if (event.key === "Escape" && typing === search) {
      if (search.value) { search.value = ""; refresh(); } else search.blur();
      return;
    }
    if (event.key === "Escape" && menu && menu.open) {
      menu.open = false;
      $("summary", menu).focus();
      return;
    }
    if (typing) return;
    const keys = {
      "/": () => { if (search) search.focus(); else location.href = $(".brand").href; },
      t: nextTheme,
      "?": () => $("#keys").showModal(),
      j: () => step(1),
      k: () => step(-1),
      s: () => { if (code) layout(code.dataset.layout === "stacked" ? "beside" : "stacked"); },
    };
    tabs.forEach((tab, i) => { keys[String(i + 1)] = () => open(tab.getAttribute("aria-controls"), true); });
    if (keys[event.key]) {
      event.preventDefault();
      keys[event.key]();
    }
  });

  if (!follow() && tabs.length) open("source");
})();

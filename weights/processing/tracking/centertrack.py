"""Identities in CenterTrack: a detection moved back by its offset takes the nearest object of the previous frame.

Numbers: xingyizhou/CenterTrack ``utils/tracker.py``, ``detector.py`` (MIT).
"""

from collections.abc import Mapping

import numpy as np
from PIL import Image

from weights.processing.tracking.heatmaps import draw_hill, hill_radius

__all__ = ["SETTINGS", "CenterTracker", "fitted"]

FAR = 1e18  # squared distance of pairs that cannot match
MEAN, STD = (0.408, 0.447, 0.470), (0.289, 0.274, 0.278)  # of pixels in [0, 1], blue first
# arguments of the tracker, by the model's name
SETTINGS = {
    "centertrack_mot17": {"new_threshold": 0.4, "seen_threshold": 0.5},
    "centertrack_coco": {"new_threshold": 0.3, "seen_threshold": 0.3},
}


def fitted(frame: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, float, np.ndarray]:
    """A frame as the network's input, with its proportions, centred on black.

    The reference crops frames that are higher than its input; here they are seen completely.

    Args:
        frame: (h, w, 3) uint8 RGB.
        size: height and width of the input, pixels.

    Returns:
        (1, 3, height, width) float32 BGR, normalised; pixels of the input per pixel of the frame; (2,) x and y of the
        frame's corner in the input.
    """
    scale = min(n / length for n, length in zip(size, frame.shape))
    height, width = (max(1, round(n * scale)) for n in frame.shape[:2])
    top, left = ((n - length) // 2 for n, length in zip(size, (height, width)))
    found = np.zeros((*size, 3), np.float32)
    found[top : top + height, left : left + width] = Image.fromarray(frame).resize((width, height))
    found = (found[..., ::-1] / np.float32(255) - np.float32(MEAN)) / np.float32(STD)
    return np.ascontiguousarray(found.transpose(2, 0, 1)[None]), scale, np.array([left, top])


class CenterTracker:
    """Gives detections identities, frame by frame.

    Args:
        new_threshold: score from which on a detection without a track starts one.
        seen_threshold: score from which on a track is drawn for the next frame.
        max_age: frames that a track survives without a detection; -1 for none.
    """

    def __init__(self, new_threshold: float = 0.3, seen_threshold: float = 0.3, max_age: int = -1):
        self.new_threshold, self.seen_threshold, self.max_age = new_threshold, seen_threshold, max_age
        self.tracks: list[dict] = []
        self.count = 0

    def step(self, found: Mapping[str, np.ndarray]) -> list[dict]:
        """Update the tracks by a frame's detections.

        Args:
            found: of one frame: ``"boxes"`` (D, 4) xyxy, ``"centres"`` and ``"moves"`` (D, 2), ``"scores"`` (D,)
                descending, ``"labels"`` (D,), see the panels' ``CenterTrackPostProcess``.

        Returns:
            Tracks: dicts of ``"id"``, ``"box"``, ``"centre"``, ``"score"``, ``"label"``, ``"age"`` (frames since the
            last detection, 1 for now), ``"active"`` (frames in a row).
        """
        matches = self._matches(found)
        tracks = []
        for i in range(len(found["scores"])):
            old = self.tracks[matches[i]] if matches[i] >= 0 else None
            if old is None and not found["scores"][i] > self.new_threshold:
                continue
            if old is None:
                self.count += 1
            tracks.append(
                {
                    "id": self.count if old is None else old["id"],
                    "box": found["boxes"][i],
                    "centre": found["centres"][i],
                    "score": float(found["scores"][i]),
                    "label": int(found["labels"][i]),
                    "age": 1,
                    "active": 1 if old is None else old["active"] + 1,
                }
            )
        for j, old in enumerate(self.tracks):
            if j not in matches and old["age"] < self.max_age:
                tracks.append({**old, "age": old["age"] + 1, "active": 0})
        self.tracks = tracks
        return tracks

    def _matches(self, found) -> list[int]:
        """Track of every detection, -1 for none."""
        count = len(found["scores"])
        if not self.tracks or not count:
            return [-1] * count
        before = np.stack([track["centre"] for track in self.tracks])
        distance = ((found["centres"] + found["moves"])[:, None] - before) ** 2
        distance = distance.sum(2)  # (D, T)
        boxes = np.stack([track["box"] for track in self.tracks])
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        own = (found["boxes"][:, 2] - found["boxes"][:, 0]) * (found["boxes"][:, 3] - found["boxes"][:, 1])
        labels = np.array([track["label"] for track in self.tracks])
        # a squared distance is compared with an area
        other = (distance > areas) | (distance > own[:, None]) | (found["labels"][:, None] != labels)
        distance = np.where(other, FAR, distance)
        matches = []
        for row in distance:  # the best detection chooses first
            nearest = int(row.argmin())
            matches.append(nearest if row[nearest] < FAR else -1)
            if matches[-1] >= 0:
                distance[:, nearest] = FAR
        return matches

    def heat(self, height: int, width: int) -> np.ndarray:
        """The tracks as Gaussians on a map of the network's input, (1, 1, height, width) float32."""
        heat = np.zeros((height, width))
        for track in self.tracks:
            if track["score"] < self.seen_threshold or not track["active"]:
                continue
            left, top, right, bottom = np.clip(track["box"], 0, [width - 1, height - 1] * 2)
            if right > left and bottom > top:
                radius = hill_radius(np.ceil(bottom - top), np.ceil(right - left))
                draw_hill(heat, (int((left + right) / 2), int((top + bottom) / 2)), radius)
        return heat[None, None].astype(np.float32)

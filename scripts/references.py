"""How the catalogue names the public implementation a model is compared with: a dotted name, or its call."""

import ast

__all__ = ["call_of"]


def call_of(reference: str) -> tuple[str, str, list, dict]:
    """The module, the builder, and the plain arguments and options of ``reference``, such as "timm.create_model('x')".

    Raises:
        SyntaxError: if it is described in words.
    """
    call = ast.parse(reference, mode="eval").body
    called = isinstance(call, ast.Call)
    module, _, builder = ast.unparse(call.func if called else call).rpartition(".")
    arguments = [ast.literal_eval(value) for value in call.args] if called else []
    options = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords} if called else {}
    return module, builder, arguments, options

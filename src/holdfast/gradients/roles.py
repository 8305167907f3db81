"""Which part each parameter plays: input, recurrent, bias, head, embedding or other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, get_args

from torch import nn

from holdfast.errors import OptionError, Problem

Role = Literal["input", "recurrent", "bias", "head", "embedding", "other"]
ROLES: tuple[Role, ...] = get_args(Role)


def find_roles(model: nn.Module, overrides: Mapping[str, Role] | None = None) -> dict[str, Role]:
    """Give every parameter of a model its role.

    In a recurrent module `weight_ih*` is input, `weight_hh*` and the projections `weight_hr*` are recurrent and
    `bias_*` is bias. Recurrent are the layers and cells of `torch.nn` and every module with parameters
    `weight_ih_l0` and `weight_hh_l0`. An `nn.Embedding` is embedding. An `nn.Linear` (weight and bias) registered
    after the last recurrent module is head, before the first one input, between two of them other. Without any
    recurrent module the last `nn.Linear` is head and the others are other. The rest is other.

    A parameter behind a parametrisation has the role of the weight that it makes. A shared parameter appears once,
    under the first of its names, with the role it has there.

    Args:
        model: Any module, also inside `DistributedDataParallel` or `torch.compile`.
        overrides: Role by parameter name or by module prefix; the longest match wins. Names may be written with or
            without the `module.`, `_orig_mod.` and `parametrizations.` parts that wrappers put in.

    Returns:
        Role by parameter name, in the order of `model.named_parameters()`.

    Raises:
        OptionError: An override matches no parameter, or names no role.

    Example:
        >>> from torch import nn
        >>> model = nn.ModuleDict({"rnn": nn.RNN(2, 3, bias=False), "out": nn.Linear(3, 1, bias=False)})
        >>> find_roles(model)
        {'rnn.weight_ih_l0': 'input', 'rnn.weight_hh_l0': 'recurrent', 'out.weight': 'head'}
        >>> find_roles(model, {"out": "other"})["out.weight"]
        'other'
    """
    names_of: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names_of.setdefault(id(parameter), []).append(name)
    overrides = dict(overrides or {})
    _check_overrides(overrides, [name for names in names_of.values() for name in names])
    modules = dict(model.named_modules(remove_duplicate=False))
    recurrent = _recurrent_modules(modules, names_of.values())
    linear_roles = _linear_roles(dict(model.named_modules()), recurrent)
    roles: dict[str, Role] = {}
    for names in names_of.values():
        owner, leaf = _owner_and_leaf(names[0])
        role = _leaf_role(leaf) if owner in recurrent else _module_role(owner, modules[owner], linear_roles)
        matches = {key: chosen for key, chosen in overrides.items() if any(_matches(key, name) for name in names)}
        roles[names[0]] = matches[max(matches, key=len)] if matches else role
    return roles


def _owner_and_leaf(name: str) -> tuple[str, str]:
    """Split a parameter's name at its owner: `a.parametrizations.w.original` belongs to `a` and makes its `w`."""
    path = name.split(".")
    if "parametrizations" in path[:-1]:
        at = path.index("parametrizations")
        return ".".join(path[:at]), path[at + 1]
    return ".".join(path[:-1]), path[-1]


def _recurrent_modules(modules: Mapping[str, nn.Module], names: Iterable[list[str]]) -> set[str]:
    leaves: dict[str, set[str]] = {}
    for name in (name for shared in names for name in shared):
        owner, leaf = _owner_and_leaf(name)
        leaves.setdefault(owner, set()).add(leaf)
    return {
        owner
        for owner, own in leaves.items()
        if isinstance(modules[owner], nn.RNNBase | nn.RNNCellBase) or {"weight_ih_l0", "weight_hh_l0"} <= own
    }


def _linear_roles(modules: Mapping[str, nn.Module], recurrent: set[str]) -> dict[str, Role]:
    # A module that is registered again later keeps its first place.
    places = [place for place, name in enumerate(modules) if name in recurrent]
    linears = {name: place for place, (name, module) in enumerate(modules.items()) if isinstance(module, nn.Linear)}
    if not recurrent:
        last = max(linears.values(), default=0)
        return {name: "head" if place == last else "other" for name, place in linears.items()}
    return {
        name: "head" if place > max(places) else "input" if place < min(places) else "other"
        for name, place in linears.items()
    }


def _leaf_role(leaf: str) -> Role:
    if leaf.startswith("weight_ih"):
        return "input"
    if leaf.startswith(("weight_hh", "weight_hr")):
        return "recurrent"
    return "bias" if leaf.startswith("bias_") else "other"


def _module_role(name: str, module: nn.Module, linear_roles: Mapping[str, Role]) -> Role:
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return "embedding"
    return linear_roles.get(name, "other")


def _plain(name: str) -> str:
    """The name that the parameter had before it was wrapped, compiled or parametrised."""
    owner, leaf = _owner_and_leaf(name)
    path = [part for part in [*owner.split("."), leaf] if part not in ("", "_orig_mod")]
    while path[0] == "module" and len(path) > 1:
        path = path[1:]
    return ".".join(path)


def _matches(key: str, name: str) -> bool:
    return any(full == key or full.startswith(f"{key}.") for full in (name, _plain(name)))


def _check_overrides(overrides: Mapping[str, Role], names: list[str]) -> None:
    problems = []
    for key, role in overrides.items():
        where = f"role override {key!r}"
        if role not in ROLES:
            problems.append(Problem(where, f"one of {', '.join(ROLES)}", repr(role), "choose one of these roles"))
        if not any(_matches(key, name) for name in names):
            known = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            problems.append(
                Problem(where, "the name of a parameter or of a module that has some", f"no match among {known}",
                        "take a name from model.named_parameters()")
            )  # fmt: skip
    if problems:
        raise OptionError(problems)

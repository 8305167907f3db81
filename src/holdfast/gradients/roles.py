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
    after the last recurrent module is head, between two of them other, before the first one input, unless by its sizes
    it can only take what a recurrent module gives and not give what one takes: then it is head too. Without any
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
    sizes = [_sizes(modules[name]) for name in modules if name in recurrent]
    roles: dict[str, Role] = {}
    for name, place in linears.items():
        leads_in, leads_out = _fits(modules[name], sizes)
        if place > max(places):
            roles[name] = "head"
        elif place < min(places):  # some models register their head first
            roles[name] = "head" if leads_out and not leads_in else "input"
        else:
            roles[name] = "other"
    return roles


def _sizes(layer: nn.Module) -> tuple[int, int]:
    """Features per step that a recurrent module takes, and that it gives to what comes next."""
    shapes = {name: tuple(parameter.shape) for name, parameter in layer.named_parameters(recurse=False)}
    shapes |= {name: tuple(getattr(layer, name).shape) for name in getattr(layer, "parametrizations", {})}
    weight_ih = next(shape for name, shape in shapes.items() if name.startswith("weight_ih"))
    weight_hh = next(shape for name, shape in shapes.items() if name.startswith("weight_hh"))
    directions = 2 if any(name.endswith("_reverse") for name in shapes) else 1
    return weight_ih[-1], weight_hh[-1] * directions


def _fits(linear: nn.Module, sizes: Iterable[tuple[int, int]]) -> tuple[bool, bool]:
    """Whether a linear layer makes what a recurrent module takes, and takes what one makes."""
    rows, columns = getattr(linear, "out_features", 0), getattr(linear, "in_features", 0)
    pairs = list(sizes)
    return any(rows == taken for taken, _ in pairs), any(columns == given for _, given in pairs)


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

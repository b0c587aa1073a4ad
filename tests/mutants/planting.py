"""Which faults are planted: a seeded sample of Cosmic Ray's mutants, spread over the modules.

Cosmic Ray finds the places and writes the mutated code. The choice is made here:

- **Operators**: those of Cosmic Ray that look like a programmer's slip (`OPERATORS`): a sign, a comparison or a
  constant off by one, a condition turned round, a loop that does not run, an exception not caught, a decorator missing.
  Of its eleven replacements for ``+``, any test at all catches ten, and none can catch ``is`` for ``==``; both would
  only spoil the figure. Its two operators on variables are left out too: they draw from an unseeded generator.
- **One mutant at a place**: of ``n + 1`` and ``n - 1`` in place of ``n``, or ``<=`` and ``>=`` in place of ``<``, one.
- **No mutant without meaning**: one that does not compile, or differs in nothing but what `meaning` leaves out.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

LEAST = 5
"""Mutants that even a short module gets."""
OPERATORS = frozenset(
    {
        "AddNot",
        "ExceptionReplacer",
        "NumberReplacer",
        "RemoveDecorator",
        "ReplaceAndWithOr",
        "ReplaceBinaryOperator_Add_Sub",
        "ReplaceBinaryOperator_BitAnd_BitOr",
        "ReplaceBinaryOperator_BitOr_BitAnd",
        "ReplaceBinaryOperator_BitXor_BitAnd",
        "ReplaceBinaryOperator_Div_Mul",
        "ReplaceBinaryOperator_FloorDiv_Div",
        "ReplaceBinaryOperator_LShift_RShift",
        "ReplaceBinaryOperator_Mod_Mul",
        "ReplaceBinaryOperator_Mul_Div",
        "ReplaceBinaryOperator_Pow_Mul",
        "ReplaceBinaryOperator_RShift_LShift",
        "ReplaceBinaryOperator_Sub_Add",
        "ReplaceBreakWithContinue",
        "ReplaceComparisonOperator_Eq_NotEq",
        "ReplaceComparisonOperator_GtE_Gt",
        "ReplaceComparisonOperator_GtE_Lt",
        "ReplaceComparisonOperator_Gt_GtE",
        "ReplaceComparisonOperator_Gt_LtE",
        "ReplaceComparisonOperator_IsNot_Is",
        "ReplaceComparisonOperator_Is_IsNot",
        "ReplaceComparisonOperator_LtE_Gt",
        "ReplaceComparisonOperator_LtE_Lt",
        "ReplaceComparisonOperator_Lt_GtE",
        "ReplaceComparisonOperator_Lt_LtE",
        "ReplaceComparisonOperator_NotEq_Eq",
        "ReplaceContinueWithBreak",
        "ReplaceFalseWithTrue",
        "ReplaceOrWithAnd",
        "ReplaceTrueWithFalse",
        "ReplaceUnaryOperator_Delete_Invert",
        "ReplaceUnaryOperator_Delete_Not",
        "ReplaceUnaryOperator_Delete_USub",
        "ZeroIterationForLoop",
    }
)
LOGGING = frozenset({"debug", "info", "warning", "error", "exception", "critical", "log"})


@dataclass(frozen=True)
class Place:
    """Where Cosmic Ray can plant a fault, and how.

    Args:
        module: the path below the root.
        operator: Cosmic Ray's name of it.
        occurrence: which of the operator's places in the module this is.
        start: line, from 1, and column.
        end: likewise.
        rank: a hash of the seed and of what is written there; the lowest are drawn.
    """

    module: str
    operator: str
    occurrence: int
    start: tuple[int, int]
    end: tuple[int, int]
    rank: str


@dataclass(frozen=True)
class Mutant:
    """A planted fault.

    Args:
        module: the path below the root.
        operator: Cosmic Ray's name of it.
        line: the first line that differs, from 1.
        old: the lines that differ, as they were, stripped.
        new: as they are in the mutant.
        source: the mutated module.
    """

    module: str
    operator: str
    line: int
    old: str
    new: str
    source: str


def draw(root: Path, modules: Sequence[str], count: int, seed: int) -> list[Mutant]:
    """Return a sample of mutants, the same for the same code and seed, in the order of the modules.

    A module's share is that of its places, and `LEAST` at least; a change elsewhere in a module draws the same mutants
    of what did not change.

    Args:
        root: the working tree.
        modules: paths below it.
        count: how many; fewer where there are no more.
        seed: another seed, another sample.
    """
    by_module: dict[str, list[Place]] = {module: [] for module in modules}
    for place in _one_at_a_place(find_places(root, modules, seed)):
        by_module[place.module].append(place)
    shares = share_out(count, {module: len(places) for module, places in by_module.items()})
    sample = []
    for module, places in by_module.items():
        source = (root / module).read_text(encoding="utf-8")
        said, drawn = meaning(source), 0
        for place in sorted(places, key=lambda place: place.rank):
            if drawn == shares[module]:
                break
            if mutant := plant(source, place, said):
                sample.append(mutant)
                drawn += 1
    return sample


def find_places(root: Path, modules: Sequence[str], seed: int) -> Iterator[Place]:
    """Yield every place at which one of the `OPERATORS` can plant a fault, from Cosmic Ray's work database."""
    from cosmic_ray.commands import init
    from cosmic_ray.work_db import use_db

    with tempfile.TemporaryDirectory() as folder, use_db(str(Path(folder) / "work.sqlite")) as database:
        init([root / module for module in modules], database, {})
        found = [mutation for item in database.work_items for mutation in item.mutations]
    lines = {module: (root / module).read_text(encoding="utf-8").splitlines() for module in modules}
    alike: Counter[tuple[str, ...]] = Counter()
    for mutation in sorted(found, key=lambda each: (each.module_path, each.operator_name, each.occurrence)):
        module = mutation.module_path.relative_to(root).as_posix()
        operator = mutation.operator_name.removeprefix("core/")
        if operator not in OPERATORS:
            continue
        start, end = tuple(mutation.start_pos), tuple(mutation.end_pos)
        # What is written there, not where: the rest of the module may change.
        written = (str(seed), module, operator, mutation.definition_name or "", lines[module][start[0] - 1].strip())
        rank = hashlib.sha256("\0".join((*written, str(alike[written]))).encode()).hexdigest()
        alike[written] += 1
        yield Place(module, operator, mutation.occurrence, start, end, rank)


def plant(source: str, place: Place, said: str | None) -> Mutant | None:
    """Return the mutant of a module's source, or None for one without meaning: ``said`` is the module's own."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    mutated = mutate_code(source, get_operator(f"core/{place.operator}")(), place.occurrence)
    if mutated is None or meaning(mutated) in (None, said):
        return None
    line, old, new = _difference(source, mutated)
    return Mutant(place.module, place.operator, line, old, new, mutated)


def share_out(count: int, places: dict[str, int]) -> dict[str, int]:
    """Divide a sample over modules in proportion to their places, `LEAST` at least to each that has as many."""
    shares = {module: min(LEAST, number) for module, number in places.items()}
    while sum(shares.values()) < min(count, sum(places.values())):
        open_to_more = [module for module, number in places.items() if shares[module] < number]
        shares[max(open_to_more, key=lambda module: places[module] / (shares[module] + 1))] += 1
    while sum(shares.values()) > count:
        shares[max(shares, key=lambda module: (shares[module], module))] -= 1
    return shares


def meaning(source: str) -> str | None:
    """Return what a module says that can matter when it runs, to be compared; None if it does not compile.

    Left out: docstrings, arguments of log messages, ``strict=True`` of ``zip`` (an assertion), and what the type
    checker sees to: annotations, what only it sees, the arguments of ``@dataclass`` (``frozen=True``), and the ``*``
    after which arguments are passed by name.
    """
    try:
        tree = ast.parse(source)
        compile(source, "mutant", "exec", dont_inherit=True)
    except SyntaxError:
        return None
    return ast.dump(_Meaning().visit(tree))


class _Meaning(ast.NodeTransformer):
    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_arguments(self, node: ast.arguments) -> ast.AST:
        together = [*node.posonlyargs, *node.args, *node.kwonlyargs]
        node.posonlyargs, node.args, node.kwonlyargs = [], together, []
        node.defaults, node.kw_defaults = [*node.defaults, *filter(None, node.kw_defaults)], []
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.decorator_list = [_without_arguments_of_dataclass(each) for each in node.decorator_list]
        return self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        if isinstance(node.value, ast.Constant):
            return None
        call = node.value
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in LOGGING:
            call.args, call.keywords = [], []
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name) and node.func.id == "zip":
            node.keywords = []
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST | None:
        if "TYPE_CHECKING" in ast.dump(node.test):
            return None
        return self.generic_visit(node)


def _without_arguments_of_dataclass(decorator: ast.expr) -> ast.expr:
    if isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Name) and decorator.func.id == "dataclass":
        return decorator.func
    return decorator


def _one_at_a_place(places: Iterator[Place]) -> list[Place]:
    """Keep the lowest rank of each place and kind of operator."""
    groups: defaultdict[tuple, list[Place]] = defaultdict(list)
    for place in places:
        groups[place.module, place.operator.split("_")[0], place.start, place.end].append(place)
    return [min(group, key=lambda place: place.rank) for group in groups.values()]


def _difference(source: str, mutated: str) -> tuple[int, str, str]:
    """Return the first line that differs, from 1, and the lines that differ, before and after."""
    before, after = source.splitlines(), mutated.splitlines()
    changes = [code for code in difflib.SequenceMatcher(None, before, after, False).get_opcodes() if code[0] != "equal"]
    first, last = changes[0], changes[-1]
    old, new = before[first[1] : last[2]], after[first[3] : last[4]]
    return first[1] + 1, *("\n".join(line.strip() for line in lines if line.strip()) for lines in (old, new))

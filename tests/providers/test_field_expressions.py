"""The grammar of `left`, what an expression makes of a reply, and what errors say."""

import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any, ParamSpec, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from budgetguard import ConfigurationError
from budgetguard.providers._expression_parser import (
    ALLOWED,
    parse_condition,
    parse_expression,
    parse_path,
)
from budgetguard.providers._field_expressions import (
    EveryItem,
    FieldExpression,
    FieldPath,
    FigureTerm,
    LeastTerm,
    MissingField,
    NumberTerm,
    PickedItem,
    Reading,
    SumTerm,
    Term,
    UnreadableField,
)

P = ParamSpec("P")
R = TypeVar("R")
E = TypeVar("E", bound=Exception)

UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
PLAIN = Reading()


def number(digits: str) -> Decimal:
    """A number as a reply has it."""
    return Decimal(digits)


def figure(left: str, reply: Any, reading: Reading = PLAIN) -> Decimal | None:
    """What an expression gives."""
    return parse_expression(left, "left").figure(reply, reading)


def unreadable(left: str, reply: Any, reading: Reading = PLAIN) -> str:
    """Why an expression gives nothing."""
    with pytest.raises(UnreadableField) as caught:
        figure(left, reply, reading)
    return str(caught.value)


def attempt(error: type[E], function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R | E:
    """What a function returns, or the error of this kind that it raises."""
    try:
        return function(*args, **kwargs)
    except error as raised:
        return raised


@pytest.mark.parametrize(
    ("written", "printed"),
    [
        ("left", "left"),
        ("  data . left ", "data.left"),
        ("data.limit-data.used", "data.limit - data.used"),
        ("a+b-c", "a + b - c"),
        ("a - (b - c)", "a - (b - c)"),
        ("((a))", "a"),
        ("(a - b) + c", "(a - b) + c"),
        ("-a", "-a"),
        ("-(a - b) + 7.50", "-(a - b) + 7.50"),
        ("a[0].b[12]", "a[0].b[12]"),
        ("a[ currency = USD ].b", "a[currency=USD].b"),
        ("a['the currency'='US $'].b", 'a["the currency"="US $"].b'),
        ("a[id=5].b", "a[id=5].b"),
        ("sum( a[units=usd].b )", "sum(a[units=usd].b)"),
        ("sum(a[*].b[*].c)", "sum(a[*].b[*].c)"),
        ("min(a,b.c,min(d, 5))", "min(a, b.c, min(d, 5))"),
        ("unlimited(key.limit) - key.usage", "unlimited(key.limit) - key.usage"),
        ("a - (b - unlimited(c))", "a - (b - unlimited(c))"),
        ("'rate-limits'.left", '"rate-limits".left'),
        ('\'2026\'."a\\"b\\\\c"', '"2026"."a\\"b\\\\c"'),
        ("min.sum - unlimited", "min.sum - unlimited"),
        ("'min'", "min"),
        ("a\n - b", "a - b"),
    ],
)
def test_what_can_be_written(written: str, printed: str) -> None:
    """It is printed in one form, which is read as the same."""
    expression = parse_expression(written, "left")
    assert str(expression) == printed
    assert parse_expression(printed, "left") == expression


@pytest.mark.parametrize(
    ("written", "at", "problem"),
    [
        ("", 1, "expected a field name, a number or (, found the end"),
        ("   ", 4, "expected a field name, a number or (, found the end"),
        ("data.", 6, "expected a field name after the dot, found the end"),
        ("data..left", 6, "expected a field name after the dot, found '.'"),
        (".left", 1, "expected a field name, a number or (, found '.'"),
        ("data left", 6, "expected the end, found something else"),
        ("data.left *", 11, "expected the end, found '*'"),
        ("a / b", 3, "expected the end, found '/'"),
        ("a + - b", 5, "expected a field name, a number or (, found '-'"),
        ("--a", 2, "expected a field name, a number or (, found '-'"),
        ("a -", 4, "expected a field name, a number or (, found the end"),
        ("(a", 3, "expected ), found the end"),
        ("a)", 2, "expected the end, found ')'"),
        ("5", 1, "it has no field"),
        ("min(5, 4) - 3", 1, "it has no field"),
        ("5e3 + a", 1, "a name that begins with a digit has to be in quotes"),
        ("a.5", 3, "expected a field name after the dot, found something else"),
        ("1" + "0" * 30 + " + a", 1, "the number is too long"),
        ("max(a, b)", 1, "there is no such function"),
        ("a - eval(b)", 5, "there is no such function"),
        ("min()", 5, "expected a field name, a number or (, found ')'"),
        ("min(a b)", 7, "expected , or ), found something else"),
        ("sum(a + b)", 7, "expected ), found '+'"),
        ("sum(5)", 5, "expected a field name, found something else"),
        ("sum(min(a))", 8, "expected ), found '('"),
        ("unlimited(a, b)", 12, "expected ), found ','"),
        ("a - unlimited(b)", 5, "unlimited(...) cannot be subtracted"),
        ("a - (b + unlimited(c))", 10, "unlimited(...) cannot be subtracted"),
        ("a - min(b, unlimited(c))", 12, "unlimited(...) cannot be subtracted"),
        ("a[*].b", 3, "[*] is allowed only in sum(...)"),
        ("unlimited(a[*])", 13, "[*] is allowed only in sum(...)"),
        ("a[]", 3, "expected the number of an item, or a field name and = and its text, found ']'"),
        (
            "a[-1]",
            3,
            "expected the number of an item, or a field name and = and its text, found '-'",
        ),
        ("a[1:2]", 4, "expected ], found ':'"),
        ("a[0", 4, "expected ], found the end"),
        ("a[b]", 4, "expected =, found ']'"),
        ("a[b==c]", 5, "expected the text that the field must be, found '='"),
        ("a[b=c d]", 7, "expected ], found something else"),
        ("a[1234567]", 3, "expected the number of an item, or a field name and = and its text, "),
        ("'a", 1, "the quotes are not closed, or contain a backslash before something else"),
        ('a."b\\n"', 3, "the quotes are not closed, or contain a backslash before something else"),
        ("pr\u00e9fix", 3, "expected the end, found something else"),
        ("a\u2212b", 2, "expected the end, found '\u2212'"),
        ("(" * 30 + "a" + ")" * 30, 22, "it is nested more than 20 deep"),
        ("a" * 1001, 1001, "it is longer than 1000 characters"),
        ("__import__('os')", 1, "there is no such function"),
    ],
)
def test_what_cannot_be_written(written: str, at: int, problem: str) -> None:
    """The error has the place, what is wrong there, and all that is allowed."""
    with pytest.raises(ConfigurationError) as caught:
        parse_expression(written, "left")
    said = str(caught.value)
    assert said.startswith(f"left, at character {at}: {problem}")
    assert said.endswith(f". {ALLOWED}")


@pytest.mark.parametrize("given", [None, 5, b"left", ["left"], lambda reply: reply["left"]])
def test_an_expression_is_a_text(given: Any) -> None:
    """Of anything else only the type is named."""
    with pytest.raises(TypeError, match=r"^left takes a str, not \w+$"):
        parse_expression(given, "left")


def test_no_error_quotes_more_than_one_sign() -> None:
    """A key may have got into the wrong argument."""
    for text in ("sk live canary", "canary\u00e9", "sk-canary)", "canary(", "'canary", "a[canary"):
        with pytest.raises(ConfigurationError) as caught:
            parse_expression(text, "left")
        assert "canary" not in str(caught.value)


@UNTIMED
@given(st.text(max_size=40) | st.text(alphabet="ab.[]()+-*,='\"\\ 05minsu", max_size=40))
def test_any_text_is_an_expression_or_a_configuration_error(text: str) -> None:
    """Nothing else comes of it, and what is one is printed as one."""
    for parse in (parse_expression, parse_path, parse_condition):
        parsed = attempt(ConfigurationError, parse, text, "left")
        if isinstance(parsed, ConfigurationError):
            assert re.match(r"left, at character \d+: ", str(parsed))
        elif isinstance(parsed, FieldExpression | FieldPath):
            assert parse(str(parsed), "left") == parsed


TEXTS = st.text(min_size=1, max_size=6) | st.sampled_from(
    ["a", "b", "min", "sum", "unlimited", "0"]
)
STEPS = TEXTS | st.integers(0, 999_999) | st.builds(PickedItem, TEXTS, st.text(max_size=6))
PATHS = st.builds(lambda first, rest: FieldPath((first, *rest)), TEXTS, st.lists(STEPS, max_size=3))
SUMS = st.builds(
    lambda first, rest: FieldPath((first, *rest)),
    TEXTS,
    st.lists(STEPS | st.just(EveryItem()), max_size=3),
)
FIGURES = st.builds(FigureTerm, PATHS) | st.builds(FigureTerm, SUMS, every=st.just(True))
NUMBERS = st.decimals(0, 10**12, places=3).map(NumberTerm)


def _sum(first: tuple[bool, Term], rest: list[tuple[bool, Term]]) -> Term:
    # A single term that is added is that term.
    return first[1] if first[0] and not rest else SumTerm((first, *rest))


def _terms(inner: st.SearchStrategy[Term]) -> st.SearchStrategy[Term]:
    signed = st.tuples(st.booleans(), inner)
    least = st.lists(inner, min_size=1, max_size=3).map(lambda terms: LeastTerm(tuple(terms)))
    return least | st.builds(_sum, signed, st.lists(signed, max_size=3))


TERMS: st.SearchStrategy[Term] = st.recursive(FIGURES | NUMBERS, _terms, max_leaves=8)


@UNTIMED
@given(TERMS)
def test_what_is_printed_is_read_as_the_same(term: Term) -> None:
    """Whatever the names and texts in it are."""
    if next(term.paths(), None) is not None:
        expression = FieldExpression(term)
        assert parse_expression(str(expression), "left") == expression


AMOUNTS = st.decimals(-(10**9), 10**9, places=6) | st.integers(-(10**9), 10**9).map(Decimal)


@UNTIMED
@given(
    st.recursive(
        st.sampled_from("abcd"),
        lambda inner: st.tuples(inner, st.sampled_from("+-,"), inner),
        max_leaves=8,
    ),
    st.fixed_dictionaries(dict.fromkeys("abcd", AMOUNTS)),
)
def test_the_arithmetic_is_exact(shape: Any, reply: dict[str, Decimal]) -> None:
    """As fractions have it, whatever the signs and the nesting are."""

    def written(part: Any) -> str:
        if isinstance(part, str):
            return part
        one, sign, other = part
        if sign == ",":
            return f"min({written(one)}, {written(other)})"
        return f"({written(one)} {sign} {written(other)})"

    def expected(part: Any) -> Fraction:
        if isinstance(part, str):
            return Fraction(reply[part])
        one, sign, other = expected(part[0]), part[1], expected(part[2])
        return min(one, other) if sign == "," else one + other if sign == "+" else one - other

    found = figure(written(shape), reply)
    assert found is not None
    assert Fraction(found) == expected(shape)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.decimals(allow_nan=True)
    | st.sampled_from(["5", "USD", "-1e3", "NaN", ""])
    | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b", "currency", "units"]), inner, max_size=3)
    ),
    max_leaves=12,
)
EXPRESSIONS = [
    "a",
    "a.b - b",
    "a[0].b",
    "a[currency=USD].b + 5",
    "sum(a[*].b)",
    "sum(a[units=5].b)",
    "min(unlimited(a.b), b)",
    "-a - (b - unlimited(a.b))",
]


@UNTIMED
@given(
    st.sampled_from(EXPRESSIONS), st.dictionaries(st.sampled_from(["a", "b"]), JSON), st.booleans()
)
def test_any_reply_gives_a_finite_figure_or_a_reason(
    left: str, reply: dict[str, Any], unlimited: bool
) -> None:
    """Nothing else, in whichever way nulls are read."""
    reading = Reading(nulls_are_unlimited=unlimited, unit="USD")
    found = attempt(UnreadableField, figure, left, reply, reading)
    if isinstance(found, UnreadableField):
        assert not str(found).endswith(".")
    else:
        assert found is None or found.is_finite()
        assert found is not None or unlimited or "unlimited" in left


REPLY = {
    "data": {"limit": number("20"), "label": "x", "none": None, "list": [], "on": True},
    "items": [
        {"id": number("7"), "kind": "a", "left": number("1")},
        {"id": number("8"), "kind": "a", "left": "2.5"},
        {"id": number("9"), "kind": "b", "left": None},
    ],
    "money": [{"currency": "USD", "left": number("5")}],
}


@pytest.mark.parametrize(
    ("left", "said"),
    [
        ("limit", "limit is missing from the provider's reply: it has data, items, money"),
        ("data.left", "data.left is missing from the provider's reply: data has limit, label, none, list, on"),
        ("data.limit.x", "data.limit in the provider's reply is a number, not an object"),
        ("data.none.x", "data.none in the provider's reply is null, not an object"),
        ("data.label[0]", "data.label in the provider's reply is text, not a list"),
        ("data[kind=a]", "data in the provider's reply is an object, not a list"),
        ("data", "data in the provider's reply is an object, not a number"),
        ("data.list", "data.list in the provider's reply is a list, not a number"),
        ("data.on", "data.on in the provider's reply is true, not a number"),
        ("data.label", "data.label in the provider's reply is text that is not a decimal number"),
        (
            "data.limit - data.none",
            ("data.none in the provider's reply is null, which is unknown unless "
            'null="unlimited" or unlimited(data.none) says that it means no limit'),
        ),
        (
            "items.left",
            "items in the provider's reply is a list: select an item, such as items[0] or items[currency=USD]",
        ),
        ("items[3].left", "items[3] is missing from the provider's reply: items has 3 items"),
        ("items[kind=c].left", "no item of items in the provider's reply has kind=c"),
        (
            "items[kind=a].left",
            ("2 items of items in the provider's reply have kind=a: use sum(...) to add them up, "
            "or select one by another field"),
        ),
        ("sum(items[kind=c].left)", "no item of items in the provider's reply has kind=c"),
        ("sum(data.list[*])", "data.list in the provider's reply is an empty list"),
        (
            "money[0].left",
            ("the items of money in the provider's reply have a currency: select by it, "
            "such as money[currency=USD]"),
        ),
        (
            "sum(money[*].left)",
            ("the items of money in the provider's reply have a currency: select by it, "
            "such as money[currency=USD]"),
        ),
    ],
)  # fmt: skip
def test_reasons_name_the_place_and_what_was_there(left: str, said: str) -> None:
    """Names and kinds, and no value."""
    assert unreadable(left, REPLY) == said


def test_items_are_selected_by_text_or_number() -> None:
    """A number in the reply is the number that the text spells."""
    assert figure("items[id=7].left", REPLY) == 1
    assert figure("items[id='8.0'].left", REPLY) == Decimal("2.5")
    assert figure("sum(items[kind=a].left)", REPLY) == Decimal("3.5")
    assert figure("items[0].left", REPLY) == 1
    assert "no item" in unreadable("items[id=true].left", REPLY)


def test_sums_do_not_mix_currencies() -> None:
    """Items that were selected by something else may still be in several."""
    reply = {
        "list": [
            {"kind": "a", "currency": "USD", "left": number("1")},
            {"kind": "a", "currency": "EUR", "left": number("2")},
        ]
    }
    assert "have a currency: select by it" in unreadable("sum(list[kind=a].left)", reply)
    assert figure("sum(list[currency=EUR].left)", reply) == 2


def test_a_currency_beside_a_figure_is_not_contradicted() -> None:
    """Where it and the unit are codes; what is no code says nothing."""
    reply = {"left": number("5"), "currency": "usd"}
    assert figure("left", reply, Reading(unit="USD")) == 5
    assert figure("left", reply, Reading(unit="credits")) == 5
    said = unreadable("left", reply, Reading(unit="EUR"))
    assert said == "the currency beside left in the provider's reply is not EUR"
    assert figure("left", {**reply, "currency": "dollars"}, Reading(unit="EUR")) == 5


def test_an_item_that_is_no_object_is_nonsense() -> None:
    """What is subtracted must not become less because an item was not understood."""
    reply = {"limit": number("5"), "list": [{"kind": "a", "used": number("4")}, None]}
    assert unreadable("limit - sum(list[kind=a].used)", reply) == (
        "an item of list in the provider's reply is null, not an object"
    )


ALL_NULLS = Reading(nulls_are_unlimited=True)


@pytest.mark.parametrize(
    ("left", "plain", "declared"),
    [
        ("none", "unknown", None),
        ("unlimited(none)", None, None),
        ("unlimited(none) - five", None, None),
        ("five + unlimited(none)", None, None),
        ("min(unlimited(none), five)", 5, 5),
        ("min(unlimited(none) - five, five + 1)", 6, 6),
        ("min(unlimited(none), unlimited(none))", None, None),
        ("unlimited(five)", 5, 5),
        ("five - none", "unknown", "unknown"),
        ("five - (five - unlimited(none))", None, None),
        ("five - min(five, five - unlimited(none))", None, None),
        ("min(none, five)", "unknown", 5),
        ("sum(list[*])", "unknown", None),
    ],
)
def test_null_means_what_is_said_of_it(left: str, plain: Any, declared: Any) -> None:
    """No limit only where it is declared, and never where it is subtracted."""
    reply = {"none": None, "five": number("5"), "list": [number("5"), None]}
    for reading, expected in ((PLAIN, plain), (ALL_NULLS, declared)):
        if expected == "unknown":
            assert "null" in unreadable(left, reply, reading)
        else:
            assert figure(left, reply, reading) == expected


def test_a_missing_field_is_never_null() -> None:
    """However nulls are read."""
    for left in ("none", "unlimited(none)", "min(unlimited(none), five)"):
        with pytest.raises(MissingField):
            figure(left, {"five": number("5")}, ALL_NULLS)


@pytest.mark.parametrize(
    ("text", "amount"),
    [("95.50", "95.5"), ("-3", "-3"), ("0", "0"), (".5", "0.5"), ("5.", "5"), ("1E3", "1000")],
)
def test_figures_in_text(text: str, amount: str) -> None:
    """Decimal numbers of the usual kind."""
    assert figure("left", {"left": text}) == Decimal(amount)


@pytest.mark.parametrize("digits", ["1e12", "-1e12", "1e-100", "0.1234567890123456789"])
def test_figures_in_range(digits: str) -> None:
    """Up to 10^12, to the last digit."""
    assert figure("left", {"left": number(digits)}) == Decimal(digits)


@pytest.mark.parametrize("digits", ["1000000000000.000001", "-1e13", "1e29", "1e30", "1e-121"])
def test_figures_out_of_range(digits: str) -> None:
    """Each alone, whatever the result would be."""
    said = unreadable("left - left", {"left": number(digits)})
    assert "is beyond 10^12" in said or "is out of range" in said


def test_names_are_cleaned_cut_and_counted() -> None:
    """An object may be keyed by secrets, or by an enemy."""
    reply = {"the canary": 1, "x" * 50: 2, "a\nb": 3, **{f"f{n}": 4 for n in range(20)}}
    reading = Reading(clean=lambda name: name.replace("canary", "***").replace("\n", " "))
    assert unreadable("left", reply, reading) == (
        f'left is missing from the provider\'s reply: it has "the ***", "{"x" * 40}...", "a b", '
        "f0, f1, f2, f3, f4, f5, f6, f7, f8 and 11 more"
    )
    assert unreadable("data.left", {"data": {}}).endswith("data has no fields")


def test_a_path_leads_to_one_value() -> None:
    """Of whatever kind, without functions and sums."""
    assert parse_path("items[id=7].kind", "renews").value(REPLY, PLAIN) == "a"
    for text in ("a - b", "sum(a)", "5", "a[*]"):
        with pytest.raises(ConfigurationError, match=r"^renews, at character \d: "):
            parse_path(text, "renews")


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("error.code = NO_CREDITS", True),
        ("error.code=NO_CREDITS", True),
        ("error.code = no_credits", False),
        ("error.code ~ credits", True),
        ("error.code ~ 'o c'", False),
        ('error.message ~ "EXHAUSTED balance"', True),
        ("error.status = 402", True),
        ("error.status ~ 402", False),
        ("error.retry = true", False),
        ("errors[0].type = quota", True),
        ("error.none = x", False),
        ("error.code.x = x", False),
        ("error = x", False),
    ],
)
def test_conditions_on_a_reply(condition: str, holds: bool) -> None:
    """Equal to a text or number, or containing a text; what is missing fulfils none."""
    error = {
        "code": "NO_CREDITS",
        "message": "User is locked. Reason: Exhausted balance.",
        "status": number("402"),
        "retry": True,
    }
    reply = {"error": error, "errors": [{"type": "quota"}]}
    assert parse_condition(condition, "exhausted").holds(reply) is holds
    assert not parse_condition(condition, "exhausted").holds([reply])
    assert not parse_condition(condition, "exhausted").holds(None)


@pytest.mark.parametrize(
    "condition", ["", "a", "a =", "= b", "a b", "a = b c", "a - b = c", "a[*] = b"]
)
def test_what_is_no_condition(condition: str) -> None:
    """The error has the place here, too."""
    with pytest.raises(
        ConfigurationError, match=r"^exhausted\[402\], at character \d: .*path = text"
    ):
        parse_condition(condition, "exhausted[402]")

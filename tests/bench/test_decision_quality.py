"""The judge itself: what it calls missed, its margins of error, and runs that go on after an interruption."""

from pathlib import Path

import decision_quality
import pytest
from decision_aims import missed
from decision_quality import Kept, measure
from decision_rows import Row, margin_of_sum
from scenarios import ALONE, OTHERS, UNPROVEN
from ways import DEFAULT, DISTRUSTING
from workload import Outcome, Refusals, Scenario


def row(*died: int, wrong: int = 0, requests: int = 0, proof: float | None = 60.0) -> Row:
    """A run of 1,000 decisions for each of these numbers of calls that died."""
    return Row(
        tuple(
            Outcome(
                died=each,
                refusals=Refusals(decisions=1000, wrong=wrong),
                requests=requests,
                first_proof=proof,
            )
            for each in died
        )
    )


def test_wrong_refusals_where_nobody_else_spends_are_missed() -> None:
    """Half a percent is too much; a little less is not."""
    assert missed({ALONE[0]: {DEFAULT: row(0, wrong=4)}}) == []
    assert missed({ALONE[0]: {DEFAULT: row(0, wrong=5)}}) == [
        "1 worker: budgetguard: 0.50 % wrong, 0.5 % allowed"
    ]


def test_a_call_that_died_where_nobody_else_spends_is_missed() -> None:
    """One run is enough to tell."""
    assert missed({ALONE[0]: {DISTRUSTING: row(0, 1)}}) == [
        "1 worker: budgetguard, sole_spender=False: 1 died, 0 overspent"
    ]


@pytest.mark.parametrize(
    ("scenario", "field", "words"),
    [
        (UNPROVEN[0], "unexplained", "0.5 credits were promised that others did not spend"),
        (ALONE[0], "false_proofs", "1 times taken for not alone"),
    ],
    ids=["unexplained", "false proof"],
)
def test_what_must_never_happen_is_missed(scenario: Scenario, field: str, words: str) -> None:
    """Whatever the number of seeds."""
    outcome = Outcome(refusals=Refusals(decisions=1000))
    setattr(outcome, field, 0.5 if field == "unexplained" else 1)
    (found,) = missed({scenario: {DEFAULT: Row((outcome,))}})
    assert words in found


def test_others_that_are_never_noticed_are_missed() -> None:
    """Where there is time for a proof, each run needs one."""
    assert missed({OTHERS: {DEFAULT: row(0, 0, proof=None)}}) == [
        "others spend 10 a minute: budgetguard: no proof that others spend in 2 runs"
    ]


def test_more_that_died_is_missed_once_there_are_enough_seeds() -> None:
    """One more of 40 counts; of 10 it is within the margin of error; of 2 nothing is compared."""

    def more(*extra: int) -> bool:
        other = row(*(1 for _ in extra))
        return bool(
            missed({OTHERS: {DEFAULT: row(*(1 + each for each in extra)), DISTRUSTING: other}})
        )

    assert not more(9, 9)
    assert not more(1, *[0] * 9)
    assert more(2, 1, *[1] * 8)
    assert more(1, *[0] * 39)
    assert not more(*[0] * 40)


def test_more_balance_requests_are_missed_beyond_a_tenth() -> None:
    """As a mean of all scenarios."""
    rows = {DEFAULT: row(0, requests=110), DISTRUSTING: row(0, requests=100)}
    assert missed({ALONE[0]: rows}) == []
    (found,) = missed({ALONE[0]: rows | {DEFAULT: row(0, requests=111)}})
    assert found.startswith("111 balance requests per 1,000 decisions")


def test_margins_of_error() -> None:
    """The standard error of a sum, and of a share: that of its numerator where all runs are alike."""
    assert margin_of_sum([3]) == 0
    assert margin_of_sum([1, 3]) == pytest.approx(2)
    alike = Row(tuple(Outcome(refusals=Refusals(decisions=100, wrong=wrong)) for wrong in (10, 30)))
    assert alike.wrong_margin == pytest.approx(100 * margin_of_sum([10, 30]) / 200)


def test_a_run_that_was_interrupted_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in the file is not run again, and comes out as it was."""
    path = tmp_path / "runs.jsonl"
    scenario = UNPROVEN[0]
    first = measure([scenario], [DEFAULT], 1, 1, path)
    ran = []
    once = decision_quality.outcome_of

    def counted(run: decision_quality.Run) -> Outcome:
        ran.append(run)
        return once(run)

    monkeypatch.setattr(decision_quality, "outcome_of", counted)
    both = measure([scenario], [DEFAULT], 2, 1, path)
    assert ran == [(scenario, DEFAULT, 1)]
    assert both[scenario][DEFAULT].outcomes[0] == first[scenario][DEFAULT].outcomes[0]
    assert Kept(path).get((scenario, DEFAULT, 1)) == both[scenario][DEFAULT].outcomes[1]

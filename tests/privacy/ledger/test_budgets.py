"""What the ledger grants: never more than any budget, whoever asks, in whatever order."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tactful_privacy.errors import BudgetError, LedgerError, ParameterError, UnknownStatisticError
from tactful_privacy.ledger.budget import (
    ANY,
    Budget,
    Charge,
    Loss,
    epsilon_of_zcdp,
    refuse_overspending,
)
from tactful_privacy.ledger.ledger import Ledger
from tactful_privacy.ledger.odometer import read_odometer
from tactful_privacy.ledger.query import Query
from tactful_privacy.ledger.statistic import CapChoice, Statistic

DAY = 86_400_000
HOUR = 3_600_000
TODAY = 20_000


def costing(name: str, epsilon: str, **further: Any) -> Statistic:
    return Statistic(name, ("bread",), HOUR, 5, Fraction(epsilon), **further)


def asking(name: str, epsilon: str, first: int = -1, last: int = -1, **further: Any) -> Query:
    """A query about days relative to today."""
    return Query(name, TODAY + first, TODAY + last, Fraction(epsilon), **further)


def seven() -> NDArray[np.int64]:
    return np.array([7], dtype=np.int64)


def never() -> NDArray[np.int64]:
    raise AssertionError("drawn although it is stored or refused")


class Clock:
    now = TODAY * DAY + HOUR

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(location: str, clock: Clock) -> Iterator[Ledger]:
    opened = Ledger(location, daily_epsilon="1", clock=clock)
    yield opened
    opened.close()


BUDGETS = (
    Budget(Fraction(1, 2), tenant="north"),
    Budget(Fraction(1, 4), purpose="research"),
    Budget(Fraction(1, 8), tenant="north", purpose="research"),
)


def test_every_budget_that_matches_holds(location: str) -> None:
    ledger = Ledger(location, daily_epsilon=1, budgets=BUDGETS)
    ledger.register(costing("a", "1/8", tenant="north", purpose="research"))
    for name, epsilon, tenant, purpose, said in (
        ("b", "1/8", "north", "research", "tenant 'north', purpose 'research' is epsilon 1/8"),
        ("c", "1/2", "south", "research", r"tenant '\*', purpose 'research' is epsilon 1/4"),
        ("d", "1/2", "north", "reports", r"tenant 'north', purpose '\*' is epsilon 1/2"),
    ):
        with pytest.raises(BudgetError, match=said):
            ledger.register(costing(name, epsilon, tenant=tenant, purpose=purpose))
    ledger.register(costing("e", "3/8", tenant="north", purpose="reports"))
    ledger.register(costing("f", "1/2", tenant="south", purpose="reports"))
    with pytest.raises(BudgetError, match="the budget is epsilon 1 "):
        ledger.register(costing("g", "1/1000", tenant="west", purpose="reports"))
    ledger.close()


def test_budgets_are_kept_and_cannot_be_changed(location: str) -> None:
    Ledger(location, daily_epsilon=1, budgets=BUDGETS).close()
    reopened = Ledger(location)
    assert set(reopened.budgets) == {Budget(Fraction(1)), *BUDGETS}
    assert reopened.budgets[0] == Budget(Fraction(1))
    with pytest.raises(BudgetError, match="north"):
        reopened.register(costing("a", "1", tenant="north"))
    reopened.close()
    with pytest.raises(BudgetError, match="a promise to users cannot be changed"):
        Ledger(location, budgets=[Budget(Fraction(3, 4), tenant="north")])
    with pytest.raises(ParameterError, match="two budgets"):
        Ledger(location, daily_epsilon=1, budgets=[Budget(Fraction(1))])


def test_a_new_budget_must_leave_room_for_what_is_granted(location: str) -> None:
    ledger = Ledger(location, daily_epsilon=1)
    ledger.register(costing("a", "1/2", purpose="research"))
    ledger.close()
    with pytest.raises(BudgetError, match="'a' costs epsilon 1/2"):
        Ledger(location, budgets=[Budget(Fraction(1, 4), purpose="research")])
    Ledger(location, budgets=[Budget(Fraction(1, 2), purpose="research")]).close()


def test_a_budget_that_another_process_added_holds_at_once(location: str) -> None:
    ledger = Ledger(location, daily_epsilon=1)
    Ledger(location, budgets=[Budget(Fraction(1, 4), purpose="research")]).close()
    with pytest.raises(BudgetError, match="purpose 'research'"):
        ledger.register(costing("a", "1/2", purpose="research"))
    ledger.close()


def test_statistics_are_registered_all_or_none(ledger: Ledger) -> None:
    with pytest.raises(BudgetError, match=r"'a' costs epsilon 1/2, 'b' costs epsilon 2/3 more"):
        ledger.register_all([costing("a", "1/2"), costing("b", "2/3")])
    assert ledger.statistics() == {}
    ledger.register_all([costing("a", "1/2"), costing("b", "1/2")])
    assert set(ledger.statistics()) == {"a", "b"}


def test_the_choice_of_a_cap_costs_too(ledger: Ledger) -> None:
    choice = CapChoice((1, 5), Fraction(1, 10))
    with pytest.raises(BudgetError, match="11/10"):
        ledger.register(costing("a", "1", cap_choice=choice))
    ledger.register(costing("a", "9/10", cap_choice=choice))


@pytest.mark.parametrize("epsilon", ["0", "-1", "nan", "inf", "", 1.0, float("nan"), None, True])
def test_an_epsilon_that_is_none_is_refused(epsilon: Any) -> None:
    for make in (
        lambda: Budget(epsilon),
        lambda: Loss(epsilon),
        lambda: Query("q", TODAY - 1, TODAY - 1, epsilon),
        lambda: costing("a", "1", cap_choice=CapChoice((5,), epsilon)),
        lambda: Statistic("a", ("x",), HOUR, 5, epsilon),
    ):
        with pytest.raises(ParameterError, match="epsilon"):
            make()


@pytest.mark.parametrize(
    ("field", "values", "said"),
    [
        ("delta", ["-1/2", "1"], "delta"),
        ("composition", ["hope"], "composition"),
        ("composition", ["zcdp"], "delta at which"),
        ("tenant", ["A B"], "tenant"),
        ("purpose", [""], "purpose"),
        ("days", [0, 401, "30"], "days"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(field: str, values: list[Any], said: str) -> None:
    for value in values:
        with pytest.raises(ParameterError, match=said):
            Budget(Fraction(1), **{field: value})


tenants = st.sampled_from(["north", "south"])
purposes = st.sampled_from(["reports", "research"])
tenths = st.integers(1, 12).map(lambda n: Fraction(n, 10))


@st.composite
def charges(draw: st.DrawFn) -> list[Charge]:
    found = []
    for n in range(draw(st.integers(0, 6))):
        first = draw(st.integers(0, 6))
        last = draw(st.integers(first, 7) | st.just(2**62))
        delta = draw(st.sampled_from([Fraction(0), Fraction(1, 10**7)]))
        loss = Loss(draw(tenths), delta)
        found.append(Charge(str(n), draw(tenants), draw(purposes), first, last, loss))
    return found


budgets = st.builds(
    Budget,
    st.integers(5, 40).map(lambda n: Fraction(n, 10)),
    st.sampled_from([Fraction(0), Fraction(1, 10**7), Fraction(1) / 10**6]),
    tenants | st.just(ANY),
    purposes | st.just(ANY),
    st.just("basic"),
    st.integers(1, 4),
)


@given(charges(), charges(), st.lists(budgets, max_size=3))
@settings(max_examples=300, deadline=None)
def test_what_is_refused_is_what_exceeds_a_budget_on_some_day(
    taken: list[Charge], asked: list[Charge], limits: list[Budget]
) -> None:
    taken = [Charge(f"t{c.name}", *list(vars(c).values())[1:]) for c in taken]

    def matching(some: list[Charge], budget: Budget, day: int) -> list[Charge]:
        return [
            c
            for c in some
            if c.first_day <= day <= c.last_day
            and budget.tenant in (ANY, c.tenant)
            and budget.purpose in (ANY, c.purpose)
        ]

    exceeded = False
    for budget in limits:
        for first in range(-4, 12):
            row = range(first, first + budget.days)
            new = [c for day in row for c in matching(asked, budget, day)]
            both = [c.loss for c in new + [c for day in row for c in matching(taken, budget, day)]]
            exceeded |= bool(new) and (
                sum(loss.epsilon for loss in both) > budget.epsilon
                or sum(loss.delta for loss in both) > budget.delta
            )
    if exceeded:
        with pytest.raises(BudgetError):
            refuse_overspending(limits, taken, asked)
    else:
        refuse_overspending(limits, taken, asked)


def test_row_of_days_that_ends_with_a_charge() -> None:
    """Only the row of days 2 to 4, of which the last ends a charge, exceeds the limit."""
    asked = Charge("a", ANY, ANY, 0, 4, Loss(Fraction(1)))
    taken = Charge("t", ANY, ANY, 4, 20, Loss(Fraction(1, 2)))
    refuse_overspending([Budget(Fraction(7, 2), days=3)], [taken], [asked])
    with pytest.raises(BudgetError, match="on 3 of the 3 days"):
        refuse_overspending([Budget(Fraction(13, 4), days=3)], [taken], [asked])


def test_odometer_covers_declared_deltas(location: str, clock: Clock) -> None:
    """The delta of the odometer is at least the sum of the deltas declared for its month."""
    ledger = Ledger(location, budgets=[Budget(Fraction(1), Fraction(1, 100))], clock=clock)
    assert read_odometer(ledger, today=TODAY).delta == Fraction(1, 10**6)
    ledger.answer_once(asking("two days", "1/2", -2, -1, delta="1/1000"), seven)
    assert read_odometer(ledger, today=TODAY).delta == Fraction(2, 1000)
    ledger.close()


def test_a_month_is_a_hard_limit_too(location: str, clock: Clock) -> None:
    """What statistics reserve of every day and what was asked of some of them add up."""
    month = Budget(Fraction(10), days=30)
    ledger = Ledger(location, daily_epsilon=1, budgets=[month], clock=clock)
    with pytest.raises(BudgetError, match=r"of 30 days is epsilon 10 .*any 30 UTC days in a row"):
        ledger.register(costing("a", "1/2"))
    ledger.answer_once(asking("before", "1/2", -12, -3), seven)
    with pytest.raises(BudgetError, match="'query before' costs epsilon 1/2"):
        ledger.register_all([costing("a", "1/3")], first_day=TODAY)
    ledger.register_all([costing("a", "1/6")], first_day=TODAY)
    ledger.close()
    reopened = Ledger(location, clock=clock)
    assert reopened.budgets == (Budget(Fraction(1)), month)
    with pytest.raises(BudgetError, match="30 days"):  # 3 and 5 and 15 times 1/6
        reopened.answer_once(asking("too much", "1", -15, -13), never)
    reopened.answer_once(asking("just fits", "1", -2, -1), seven)  # 5 and 2 and 18 times 1/6
    with pytest.raises(BudgetError, match=r"30 days .*'query just fits'"):
        reopened.answer_once(asking("one more", "1/1000", -5, -5), never)
    reopened.answer_once(asking("long before", "1/2", -60, -50), seven)
    room = read_odometer(reopened, today=TODAY).rooms[1]
    assert (room.budget, room.taken) == (month, Fraction(5))
    assert room.largest_day == 7 + Fraction(1, 6)
    reopened.close()
    with pytest.raises(BudgetError, match="made with epsilon 10"):
        Ledger(location, budgets=[Budget(Fraction(11), days=30)])


def test_zcdp_lets_many_small_losses_in_where_addition_does_not() -> None:
    delta = Fraction(1, 10**6)
    small = Loss(Fraction(1, 100))
    many = {str(n): small for n in range(400)}
    adding, zcdp = Budget(Fraction(2), delta), Budget(Fraction(2), delta, composition="zcdp")
    with pytest.raises(BudgetError):
        adding.refuse_more_than_fits({}, many, "today")
    zcdp.refuse_more_than_fits({}, many, "today")
    exact = epsilon_of_zcdp(Fraction(400, 2 * 100**2), delta)
    assert float(zcdp.spent(many)[0]) == exact
    # 0.02 + 2 sqrt(0.02 ln 10^6)
    assert exact == pytest.approx(1.07130, abs=1e-5)
    with pytest.raises(BudgetError):
        Budget(Fraction(107, 100), delta, composition="zcdp").refuse_more_than_fits({}, many, "")
    with pytest.raises(BudgetError, match="state its rho"):
        zcdp.spent({"a": Loss(Fraction(1), delta)})
    assert zcdp.spent({"a": Loss(Fraction(1), delta, rho=Fraction(1, 100))})[0] < 1


def test_the_whole_ledger_can_add_up_by_zcdp(location: str) -> None:
    whole = Budget(Fraction(2), Fraction(1, 10**6), composition="zcdp")
    ledger = Ledger(location, budgets=[whole])
    ledger.register_all([costing(f"s{n}", "1/20") for n in range(45)])  # 2.25 by addition
    with pytest.raises(BudgetError):
        ledger.register_all([costing(f"t{n}", "1/20") for n in range(45)])
    ledger.close()
    assert Ledger(location).budgets == (whole,)


def test_a_query_is_drawn_once_and_charged_once(ledger: Ledger) -> None:
    query = asking("most viewed", "1/2")
    first = ledger.answer_once(query, seven)
    again = ledger.answer_once(query, never)
    for answer in (first, again):
        assert answer.query == query
        assert answer.values is not None
        assert answer.values.tolist() == [7]
    ledger.answer_once(asking("least viewed", "1/2"), seven)
    with pytest.raises(BudgetError, match="'query least viewed' costs epsilon 1/2"):
        ledger.answer_once(asking("third", "1/100"), never)


def test_each_day_of_a_query_is_charged(ledger: Ledger) -> None:
    ledger.register(costing("a", "1/2"))
    ledger.answer_once(asking("week", "1/4", -7, -1), seven)
    ledger.answer_once(asking("monday", "1/4", -7, -7), seven)
    for first, last in ((-7, -7), (-9, -7), (-7, -5)):
        with pytest.raises(BudgetError, match="more on 20"):
            ledger.answer_once(asking(f"{first} {last}", "1/8", first, last), never)
    ledger.answer_once(asking("later", "1/4", -6, -1), seven)
    ledger.answer_once(asking("before", "1/2", -9, -8), seven)
    assert [answer.query.name for answer in ledger.answers(TODAY - 8, TODAY - 8)] == ["before"]


def test_later_statistic_counts_queries_of_earlier_days(ledger: Ledger) -> None:
    """A statistic registered later finds the earlier days charged."""
    ledger.answer_once(asking("q", "1/2"), seven)
    with pytest.raises(BudgetError, match="'query q' costs epsilon 1/2"):
        ledger.register(costing("a", "2/3"))
    ledger.register_all([costing("a", "2/3")], first_day=TODAY)
    with pytest.raises(LedgerError, match="nothing reserved for"):
        ledger.release_once(costing("a", "2/3"), TODAY * DAY - HOUR, never)
    ledger.release_once(costing("a", "2/3"), TODAY * DAY, seven)
    with pytest.raises(BudgetError):
        ledger.answer_once(asking("r", "2/3"), never)  # the day of q
    ledger.answer_once(asking("s", "1/2"), seven)


def test_statistic_may_begin_earlier_within_the_budget(ledger: Ledger) -> None:
    """It was registered while the clock stood in the future."""
    a = costing("a", "1/2")
    ledger.register_all([a], first_day=TODAY + 300)
    ledger.answer_once(asking("q", "2/3"), seven)
    with pytest.raises(BudgetError, match="'query q' costs epsilon 2/3"):
        ledger.register_all([a])
    with pytest.raises(LedgerError, match="nothing reserved"):
        ledger.release_once(a, TODAY * DAY, never)
    ledger.register_all([a], first_day=TODAY)
    ledger.register_all([a], first_day=TODAY + 300)  # does not take back
    ledger.release_once(a, TODAY * DAY, seven)
    assert next(charge.first_day for charge in ledger.charges()) == TODAY


def test_failing_draw_is_charged_and_may_be_repeated(ledger: Ledger) -> None:
    """A failing draw has spent its charge and may be repeated."""
    query = asking("q", "1")
    with pytest.raises(AssertionError):
        ledger.answer_once(query, never)
    (unanswered,) = ledger.answers(TODAY - 1, TODAY - 1)
    assert unanswered.values is None
    with pytest.raises(BudgetError):
        ledger.answer_once(asking("r", "1/100"), never)
    assert ledger.answer_once(query, seven).values is not None


def test_a_name_stands_for_one_query(ledger: Ledger) -> None:
    ledger.answer_once(asking("q", "1/2"), seven)
    for other in (asking("q", "1/4"), asking("q", "1/2", -2, -2), asking("q", "1/2", rho="1/8")):
        with pytest.raises(LedgerError, match="another query"):
            ledger.answer_once(other, never)


def test_an_answer_of_wrong_shape_is_not_stored(ledger: Ledger) -> None:
    for wrong in (np.zeros((1, 1), np.int64), np.zeros(1), np.int64(3)):
        with pytest.raises(LedgerError, match="int64"):
            ledger.answer_once(asking("q", "1/2"), lambda wrong=wrong: wrong)  # type: ignore[misc]
        assert ledger.answers(TODAY - 1, TODAY - 1)[0].values is None


def test_a_clock_that_goes_back_over_midnight_renews_nothing(ledger: Ledger, clock: Clock) -> None:
    ledger.answer_once(asking("q", "1"), seven)
    clock.now -= DAY
    with pytest.raises(LedgerError, match="not over by the clock"):
        ledger.answer_once(asking("r", "1"), never)
    ledger.answer_once(asking("r", "1", -2, -2), seven)
    clock.now += DAY
    for day in (-1, -2):
        with pytest.raises(BudgetError):
            ledger.answer_once(asking(f"again {day}", "1/100", day, day), never)
    with pytest.raises(LedgerError, match="not over by the clock"):
        ledger.answer_once(asking("today", "1/100", 0, 0), never)


def test_what_a_statistic_reserved_for_queries_is_a_limit_too(ledger: Ledger) -> None:
    ledger.register(costing("a", "1/2", cap_choice=CapChoice((1, 5), Fraction(1, 10))))
    ledger.register(costing("b", "2/5"))
    ledger.answer_once(asking("cap", "1/10", within="a"), seven)  # although the budget is full
    with pytest.raises(BudgetError):
        ledger.answer_once(asking("cap again", "1/10", within="a"), never)
    ledger.answer_once(asking("cap of the day before", "1/10", -2, -2, within="a"), seven)
    with pytest.raises(LedgerError, match="reserved nothing"):
        ledger.answer_once(asking("other", "1/10", within="b"), never)
    with pytest.raises(UnknownStatisticError):
        ledger.answer_once(asking("other", "1/10", within="c"), never)


def test_a_retired_statistic_frees_the_days_to_come(ledger: Ledger) -> None:
    a = costing("a", "1")
    ledger.register(a)
    ledger.release_once(a, TODAY * DAY, seven)
    assert ledger.retire("a") == ledger.retire("a") == TODAY
    with pytest.raises(BudgetError):
        ledger.register_all([costing("b", "1")], first_day=TODAY)
    ledger.register_all([costing("b", "1")], first_day=TODAY + 1)
    ledger.release_once(a, TODAY * DAY + HOUR, seven)  # the rest of its last day
    with pytest.raises(LedgerError, match="retired"):
        ledger.release_once(a, (TODAY + 1) * DAY, never)
    with pytest.raises(LedgerError, match="was retired on 2024-10-04"):
        ledger.register(a)
    assert ledger.read("a").releases
    with pytest.raises(UnknownStatisticError):
        ledger.retire("nothing")


def test_retirement_is_not_before_the_newest_release(ledger: Ledger) -> None:
    """A statistic is not retired before the day of its newest release."""
    a = costing("a", "1")
    ledger.register(a)
    ledger.release_once(a, (TODAY + 3) * DAY, seven)  # a replay whose clock is ahead
    assert ledger.retire("a") == TODAY + 3
    assert ledger.last_pane("a") == (TODAY + 3) * DAY
    assert ledger.released_days(TODAY, TODAY + 9) == {"a": [TODAY + 3]}
    assert ledger.released_days(TODAY, TODAY + 2) == {}

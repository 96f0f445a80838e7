"""The pages in a real browser: what is seen first, the keyboard, and changes without a reload."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from models.lifecycle import StudyState
from models.study import Study
from services.database.store import Store
from services.workflow.reporting import sign_report
from tests.web.department import CASES, READING_ORDER, add, morning

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(
    not CHROMIUM.exists(), reason="Debian's chromium is not installed (apt install chromium)"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser, site: str) -> Iterator[Page]:
    """A page that may not complain: no script error, nothing refused by the policy."""
    context = browser.new_context(base_url=site, viewport={"width": 1400, "height": 800})
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None
    )
    yield page
    context.close()
    assert complaints == []


@pytest.fixture
def studies(store: Store) -> dict[str, Study]:
    return morning(store)


def accessions(page: Page) -> list[str]:
    return [
        row.split("\n")[0]
        for row in page.locator("a.row[data-study] .c-exam .id").all_inner_texts()
    ]


def test_the_critical_come_first_and_are_in_view(page: Page, studies: dict[str, Study]) -> None:
    page.goto("/")
    assert accessions(page) == list(READING_ORDER)
    first = page.locator("section.critical a.row")
    expect(first).to_have_count(2)
    expect(first.first).to_be_in_viewport(ratio=1)
    expect(first.first).to_contain_text("Asymmetric lateral ventricles")
    # Not by colour alone: the section says it in words.
    expect(page.get_by_role("heading", name="Critical")).to_be_visible()


def test_clocks_run(page: Page, studies: dict[str, Study]) -> None:
    page.goto("/")
    clock = page.locator("section.critical .clock").first
    before = clock.inner_text()
    page.wait_for_function(
        "before => document.querySelector('section.critical .clock').textContent !== before",
        arg=before,
    )
    assert before.startswith("21:")


def test_a_study_is_opened_and_signed_by_keyboard(
    page: Page, studies: dict[str, Study], store: Store
) -> None:
    page.goto("/")
    for key in ("j", "j", "k", "Enter"):
        page.keyboard.press(key)
    first = studies[READING_ORDER[0]]
    page.wait_for_url(f"**/studies/{first.study_uid}")
    page.get_by_label("Findings").focus()
    page.keyboard.type("jk: mass in the left hemisphere.")
    page.keyboard.press("Tab")
    page.keyboard.type("Mass effect.")
    page.get_by_label("Signed by").fill("Ruth Testreader")
    page.get_by_label("Impression").focus()
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**?signed=1")
    expect(page.get_by_role("status").filter(has_text="Version 1 is signed")).to_be_visible()
    with store() as uow:
        (report,) = uow.reports.of_study(first.id)
    assert (report.findings, report.author) == (
        "jk: mass in the left hemisphere.",
        "Ruth Testreader",
    )
    page.locator("h1").click()
    page.keyboard.press("n")
    page.wait_for_url(f"**/studies/{studies[READING_ORDER[1]].study_uid}")


def test_a_critical_result_is_acknowledged_on_the_page(
    page: Page, studies: dict[str, Study]
) -> None:
    page.goto(f"/studies/{CASES[0].study_uid}")
    page.get_by_label("Taken note and read back by").fill("Ruth Testreader")
    page.get_by_role("button", name="Acknowledge").click()
    expect(page.locator("#critical")).to_contain_text("Acknowledged by Ruth Testreader")
    expect(page.get_by_role("button", name="Acknowledge")).to_have_count(0)
    # Who reads on is not asked for the name again, until the tab is closed.
    assert page.get_by_label("Signed by").input_value() == "Ruth Testreader"


def test_a_new_critical_study_appears_without_a_reload(page: Page, store: Store) -> None:
    morning(store, CASES[2:6])
    page.goto("/")
    expect(page.locator("[data-link]")).to_have_text("live")
    page.evaluate("window.sameDocument = true")
    page.keyboard.press("j")
    page.keyboard.press("j")
    with store() as uow:
        add(uow, CASES[0], datetime.now(UTC))
    row = page.locator("section.critical a.row")
    expect(row).to_contain_text("ALDERBOURNE", timeout=5000)
    assert page.evaluate("window.sameDocument") is True
    # Who had chosen a row still has it chosen.
    chosen = page.evaluate("document.activeElement.dataset.study")
    assert chosen == CASES[3].study_uid


def test_a_study_page_follows_without_touching_what_is_being_typed(
    page: Page, studies: dict[str, Study], store: Store
) -> None:
    page.goto(f"/studies/{CASES[0].study_uid}")
    expect(page.locator("[data-link]")).to_have_text("live")
    page.get_by_label("Impression").fill("Half a sent")
    sign_report(
        store,
        CASES[0].study_uid,
        status="preliminary",
        findings="",
        impression="Signed by another.",
        author="Another Testreader",
    )
    expect(page.locator("#reports")).to_contain_text("Signed by another.", timeout=5000)
    expect(page.locator("#timeline")).to_contain_text("report.signed")
    expect(page.get_by_role("alert")).to_contain_text("newer version")
    assert page.get_by_label("Impression").input_value() == "Half a sent"


def test_a_study_that_is_done_leaves_the_list(
    page: Page, studies: dict[str, Study], store: Store
) -> None:
    page.goto("/")
    expect(page.locator("[data-link]")).to_have_text("live")
    with store() as uow:
        uow.studies.change(studies["S2600000103"].id, state=StudyState.FINAL.value)
    expect(page.locator("text=CORNFLOWER")).to_have_count(0, timeout=5000)


def test_text_can_be_read_in_the_dark(page: Page, studies: dict[str, Study]) -> None:
    """WCAG 2 AA: 4.5 to 1 for every text, against the background it really has."""
    for path in ("/", f"/studies/{CASES[0].study_uid}"):
        page.goto(path)
        assert page.evaluate(CONTRAST) == []


CONTRAST = """() => {
  const rgb = (c) => c.match(/[\\d.]+/g).map(Number);
  const lum = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (el) => {
    for (let e = el; e; e = e.parentElement) {
      const c = rgb(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] === 1) return c;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const el of document.querySelectorAll("body *")) {
    const own = [...el.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !el.checkVisibility()) continue;
    const [a, b] = [lum(rgb(getComputedStyle(el).color)), lum(ground(el))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) poor.push(`${el.className} ${el.textContent.trim()} ${ratio.toFixed(2)}`);
  }
  return poor;
}"""

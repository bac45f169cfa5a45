"""The page of a run can be read by everyone, in any browser, and loads nothing."""

import base64
import io
import re
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element

import numpy as np
import pytest
from pages import CLASSES, NAMES, Case, every, parse, pixels, text
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Page


@pytest.fixture(scope="module")
def page(case: Case) -> Element:
    return parse(case.file)


def test_nothing_is_loaded_from_elsewhere_and_nothing_runs(page: Element) -> None:
    assert not every(page, "script", "link", "iframe", "object", "embed", "base", "form")
    for element in page.iter():
        for name, value in element.attrib.items():
            assert not name.startswith("on"), f"<{element.tag} {name}>"
            if name in ("src", "href", "srcset", "poster", "action", "data"):
                assert re.match(r"data:image/(webp|svg\+xml);base64,|#", value), f"<{element.tag} {name}={value[:60]}>"
            if value.startswith("data:image/svg"):
                drawing = base64.b64decode(value.partition("base64,")[2]).decode()
                assert not re.search(r"<script|<image|<foreignObject|href=\"[^#]|url\([^#]", drawing)
    (style,) = every(page, "style")
    assert not re.search(r"url\(|@import|@font-face", text(style))
    (policy,) = page.findall(".//meta[@http-equiv='Content-Security-Policy']")
    assert policy.attrib["content"].startswith("default-src 'none';"), "the browser sees to it, too"


def test_a_users_names_are_text_and_nothing_else(page: Element) -> None:
    shown = "\n".join([text(page), *(image.attrib["alt"] for image in every(page, "img"))])
    for name in (*CLASSES, 'holiday"><b>', NAMES[0], r"caf\udce9.png", *NAMES[2:]):
        assert name in shown, f"{name} should be there as it is"
    assert not every(page, "b"), "no element comes from a name"


def test_headings_language_title_and_both_schemes_are_declared(page: Element) -> None:
    levels = [int(each.tag[1]) for each in every(page, "h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels)), levels
    declared = {each.get("name"): each.get("content") for each in every(page, "meta")}
    assert page.attrib["lang"] == "en"
    assert re.search("holiday.*complete", text(every(page, "title")[0]))
    assert declared["viewport"] == "width=device-width, initial-scale=1", "which leaves a reader free to zoom"
    assert declared["color-scheme"] == "light dark"
    assert len(every(page, "main")) == 1


def test_every_link_leads_to_a_section_and_the_first_past_the_navigation(page: Element) -> None:
    ids = [each.attrib["id"] for each in page.iter() if "id" in each.attrib]
    assert len(set(ids)) == len(ids), "an id stands for one element"
    links = every(page, "a")
    assert links[0].attrib == {"class": "skip", "href": "#ladder"}
    assert {link.attrib["href"][1:] for link in links} <= set(ids)
    linked = {link.attrib["href"][1:] for link in page.findall(".//nav//a")}
    assert linked == {each.attrib["aria-labelledby"] for each in every(page, "section")}


def test_every_region_is_labelled_and_reached_by_the_keyboard(page: Element) -> None:
    labels = {each.attrib["id"]: text(each) for each in page.iter() if "id" in each.attrib}
    for element in page.iter():
        if label := element.get("aria-labelledby"):
            assert labels.get(label), f"<{element.tag}> is labelled by {label}, which says nothing"
        if element.get("role") == "region":
            assert element.attrib["tabindex"] == "0"


def test_every_picture_has_a_description_of_its_own_and_its_size(page: Element) -> None:
    pictures = every(page, "img")
    assert len(pictures) > 30
    descriptions = [each.attrib["alt"] for each in pictures]
    assert all(len(description) > 12 for description in descriptions)
    assert len(set(descriptions)) == len(descriptions), "no two pictures show the same"
    for each in pictures:
        if "webp" in each.attrib["src"][:20]:
            height, width = pixels(each).shape[:2]
            assert (each.attrib["width"], each.attrib["height"]) == (str(width), str(height))


def test_every_table_has_a_caption_scopes_and_scrolls_on_its_own(page: Element) -> None:
    tables = every(page, "table")
    assert len(tables) >= 3
    assert len(page.findall(".//div[@class='scroll']/table")) == len(tables)
    for table in tables:
        (caption,) = every(table, "caption")
        assert text(caption)
        assert {header.get("scope") for header in every(table, "th")} <= {"row", "col"}
        assert all(len(row) > 1 for row in every(table, "tr"))


# In a browser.


NewPage = Callable[..., "Page"]


def new_window(new_page: NewPage, width: int = 1280, dark: bool = False) -> "Page":
    return new_page(viewport={"width": width, "height": 800}, color_scheme="dark" if dark else "light")


OVERFLOW = """[...document.body.querySelectorAll("*")].filter(each => !each.closest(".scroll, pre, .skip") &&
    each.getBoundingClientRect().right > innerWidth + 1).map(each => each.outerHTML.slice(0, 80))"""
BROKEN = "[...document.images].filter(each => !each.complete || !each.naturalWidth).map(each => each.alt)"
# Texts that stand out from their ground by less than 4.5 to 1, WCAG's level AA.
FAINT = """(() => { const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b };
  const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
    if (!/, 0\\)$/.test(c)) return c } return "rgb(255, 255, 255)" };
  return [...document.body.querySelectorAll("*")].filter(e => [...e.childNodes].some(n => n.nodeType == 3 &&
    n.data.trim())).map(e => { const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) =>
    y - x); return [(a + .05) / (b + .05), e.outerHTML.slice(0, 60)] }).filter(([ratio]) => ratio < 4.5) })()"""


@pytest.mark.parametrize(("width", "dark"), [(360, True), (1280, False)])
def test_in_a_browser_it_is_whole_legible_and_silent(width: int, dark: bool, new_page: NewPage, case: Case) -> None:
    window = new_window(new_page, width, dark)
    requests: list[str] = []
    complaints: list[str] = []
    window.on("request", lambda request: requests.append(request.url))
    window.on("console", lambda message: complaints.append(message.text))
    window.on("pageerror", lambda error: complaints.append(str(error)))
    window.goto(case.file.as_uri())
    assert window.evaluate("document.documentElement.scrollWidth") <= width
    assert window.evaluate(OVERFLOW) == []
    assert window.evaluate("document.images.length") == len(every(parse(case.file), "img"))
    assert window.evaluate(BROKEN) == []
    assert window.evaluate(FAINT) == []
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [case.file.as_uri()], "the file and nothing else"
    shot = np.asarray(Image.open(io.BytesIO(window.screenshot())).convert("L"), float)
    assert (np.median(shot) < 60) == dark, "the ground is dark where that is asked for"
    assert shot.std() > 20, "and there is something on it"
    window.close()


def test_in_a_browser_the_first_key_leads_past_the_navigation(new_page: NewPage, case: Case) -> None:
    window = new_window(new_page)
    window.goto(case.file.as_uri())
    window.keyboard.press("Tab")
    assert window.evaluate("document.activeElement.textContent") == "Skip to the ladder"
    assert window.evaluate("document.activeElement.getBoundingClientRect().left") >= 0, "it comes into sight"
    window.keyboard.press("Tab")
    assert window.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert window.evaluate("parseFloat(getComputedStyle(document.activeElement).outlineWidth)") >= 2
    window.close()


def test_in_a_browser_it_prints_dark_on_white_without_navigation(new_page: NewPage, case: Case) -> None:
    window = new_window(new_page, dark=True)
    window.goto(case.file.as_uri())
    assert window.pdf(format="A4", print_background=True).startswith(b"%PDF")
    window.emulate_media(media="print")
    assert not window.locator("nav").is_visible()
    assert window.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    window.close()

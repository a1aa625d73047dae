"""The shell: what a browser may do with a page, and templates that can't hold anything inline."""

import re
from importlib import resources

import jinja2
import pytest

from smcp.kernel import errors
from smcp.web import assets, shell

TEMPLATES = resources.files("smcp.web") / "templates"
NAMES = sorted(one.name for one in TEMPLATES.iterdir())
XSS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'-alert(1)-'",
    "javascript:alert(1)",
    "</title><svg/onload=alert(1)>",
    "{{ 7 * 7 }}",
    "&lt;script&gt;",
    "\u202egnp.exe",
)


@pytest.fixture
def made() -> shell.Shell:
    return shell.Shell("0", lambda: 1_000_000.0)


@pytest.mark.requirement("oauth:pages:csp")
def test_a_page_allows_nothing_but_its_own_nonce_and_ourselves(made: shell.Shell) -> None:
    answer = made.page("told.html", title="T", text="t", targets=("https://app.example",))
    parts = (part.partition(" ") for part in answer.headers["content-security-policy"].split("; "))
    policy = {name: value for name, _, value in parts}
    nonces = set(re.findall(r'nonce="([A-Za-z0-9_-]{22})"', bytes(answer.body).decode()))
    assert len(nonces) == 1
    nonce = nonces.pop()
    assert policy == {
        "default-src": "'none'",
        "script-src": f"'nonce-{nonce}'",
        "style-src": f"'nonce-{nonce}'",
        "img-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'self' https://app.example",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    assert nonce not in bytes(made.page("told.html", title="T", text="t").body).decode()


@pytest.mark.requirement("oauth:pages:headers")
def test_a_page_is_not_kept_not_framed_and_not_told_about(made: shell.Shell) -> None:
    for answer in (made.page("told.html", title="T", text="t"), made.refusal(errors.NotFound(), "req-1")):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
    gone = shell.redirect("https://app.example/cb?code=1")
    assert (gone.status_code, gone.headers["referrer-policy"]) == (303, "no-referrer")
    assert gone.headers["cache-control"] == "no-store"


@pytest.mark.requirement("oauth:pages:popup")
def test_only_pages_of_an_authorization_stay_with_the_window_that_opened_them(made: shell.Shell) -> None:
    assert made.page("told.html", title="T", text="t").headers["cross-origin-opener-policy"] == "same-origin"
    kept = made.page("told.html", title="T", text="t", popup=True)
    assert kept.headers["cross-origin-opener-policy"] == "unsafe-none"


@pytest.mark.requirement("oauth:pages:xss")
@pytest.mark.parametrize("text", XSS)
def test_whatever_a_page_is_told_is_text_attack_cve_2025_62800(made: shell.Shell, text: str) -> None:
    html = bytes(made.page("told.html", title=text, text=text).body).decode()
    assert html.count("<script") == 1
    assert "<img src=x" not in html
    assert "<svg/" not in html
    if "<" in text or '"' in text:
        assert text not in html


@pytest.mark.requirement("oauth:pages:csp")
@pytest.mark.parametrize("name", NAMES)
def test_no_template_holds_script_style_or_markup_that_is_not_escaped(name: str) -> None:
    text = (TEMPLATES / name).read_text("utf-8")
    assert not re.search(r"\sstyle\s*=|<style|\son[a-z]+\s*=|javascript:|\|\s*safe|autoescape", text)
    for tag in re.findall(r"<script[^>]*>", text):
        assert "src=" in tag
        assert 'nonce="{{ nonce }}"' in tag
    # An attribute without quotes could be left with a space.
    assert not re.search(r"\s[a-z-]+=\s*\{\{", text)
    for form in re.findall(r"<form\b.*?</form>", text, re.DOTALL):
        assert 'method="post"' in form
        assert "parts.hidden(" in form


@pytest.mark.requirement("oauth:pages:accessible")
@pytest.mark.parametrize("name", NAMES)
def test_every_field_has_a_label_and_every_button_words(name: str) -> None:
    text = (TEMPLATES / name).read_text("utf-8")
    for field in re.findall(r"<input\b[^>]*>", text):
        if 'type="hidden"' in field or field.endswith(" hidden>"):
            continue
        found = re.search(r'\bid="([^"]+)"', field)
        assert found, field
        assert f'<label for="{found.group(1)}">' in text
    for words in re.findall(r"<button[^>]*>(.*?)</button>", text, re.DOTALL):
        assert words.strip()


@pytest.mark.requirement("oauth:pages:xss")
def test_a_value_that_a_template_was_not_given_is_an_error_and_no_empty_page(made: shell.Shell) -> None:
    with pytest.raises(jinja2.UndefinedError):
        made.page("told.html", title="T")


@pytest.mark.requirement("oauth:pages:form-action")
@pytest.mark.parametrize(
    ("uri", "target"),
    [
        ("https://app.example/cb?x=1", "https://app.example"),
        ("https://app.example:8443/cb", "https://app.example:8443"),
        ("http://127.0.0.1:4321/cb", "http://127.0.0.1:4321"),
        ("http://localhost:4321/", "http://localhost:4321"),
        ("com.example.app:/cb", "com.example.app:"),
        ("http://[::1]:4321/cb", None),
        ("https://app.example; script-src *", None),
        ("https://*.example", None),
    ],
)
def test_where_an_answer_goes_is_one_origin_of_the_forms_policy_or_none(uri: str, target: str | None) -> None:
    assert shell.target_of(uri) == target


@pytest.mark.requirement("oauth:pages:csp")
def test_files_are_ours_and_name_no_other_site() -> None:
    assert len(assets.routes()) == 3
    for name in ("pages.css", "pages.js"):
        text = (resources.files("smcp.web") / "static" / name).read_text("utf-8")
        assert not re.search(r"https?://|@import|url\(", text)
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "localStorage"):
            assert word not in text


def _luminance(colour: str) -> float:
    digits = colour if len(colour) == 6 else "".join(2 * one for one in colour)
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.requirement("oauth:pages:accessible")
def test_text_stands_out_from_what_is_behind_it_in_light_and_dark() -> None:
    """WCAG 2.2, 1.4.3 (text: 4.5 to 1) and 1.4.11 (edges of fields and the focus: 3 to 1)."""
    css = (resources.files("smcp.web") / "static" / "pages.css").read_text("utf-8")
    found = re.finditer(r"--([a-z-]+): light-dark\(#([0-9a-f]{3,6}), #([0-9a-f]{3,6})\)", css)
    colours = {one[1]: (one[2], one[3]) for one in found}

    def contrast(one: str, other: str, mode: int) -> float:
        bright, dim = sorted((_luminance(colours[one][mode]), _luminance(colours[other][mode])), reverse=True)
        return (bright + 0.05) / (dim + 0.05)

    for mode in (0, 1):
        for back in ("back", "card"):
            for text in ("text", "soft", "main", "bad"):
                assert contrast(text, back, mode) >= 4.5, (text, back, mode)
            assert contrast("line", back, mode) >= 3, (back, mode)
        assert contrast("text", "warn-back", mode) >= 4.5

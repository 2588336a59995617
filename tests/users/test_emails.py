"""Email addresses: exactly those that Pydantic's EmailStr takes, each in one canonical form."""

import unicodedata
from itertools import product
from typing import Any

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import EmailStr, TypeAdapter, ValidationError

from svc.http.emails import Email
from tests.support import pointers, problem

LOCALS = """
ada ADA Ada.Lovelace ada+tag ada_l-1 a 1 !#$%&'*+-/=?^_`{|}~ ädä a\u0308da ÄDÄ ΣΑΣ σας пользователь 用户
ユーザー İ ß H\u0331 \u212a a\u200db 😀 a\u202eb \u0308a .ada ada. a..b "ada" "a@b" "a\\"b" "" (note)ada
ada(note) a@b a,b a;b a\x00b <ada a\\b a\ud800
"""
ODD_LOCALS = ["", "x" * 64, "x" * 65, "a b", " ada", "ada ", '"a b"', "a\tb", "a\nb", "a\u00a0b"]
DOMAINS = """
example.com EXAMPLE.Com mail.sub.example.co.uk bücher.example.com bu\u0308cher.example.com faß.de FAẞ.de
BÜCHER.example.com xn--bcher-kva.example.com XN--BCHER-KVA.example.com xn--a.com ΑΣ.gr ας.gr 例え.jp 例え。jp
ｅxample.com 😀.com 1.com example.1 1.2.3.4 [1.2.3.4] [IPv6:::1] localhost example host.test host.invalid com
host.local host.onion .example.com example.com. example..com -example.com example-.com ex_ample.com
a\u200db.com example.com\x00 exam\u200bple.com example.com(note) example.com> \ud800.com
"""
ODD_DOMAINS = [
    "",
    "ex ample.com",
    "example.com ",
    "example.com\n",
    "example.com\r\n",
    "x" * 63 + ".com",
    "x" * 64 + ".com",
    ("x" * 60 + ".") * 3 + "com",
    ("x" * 60 + ".") * 4 + "com",
]
NAMED = [
    "Ada <{}>",
    "Ada Lovelace <{}>",
    '"Ada, L." <{}>',
    '"Ada "L" <x>" <{}>',
    "<{}>",
    " <{}> ",
    "Ädä <{}>",
    "Ada\n<{}>",
    "Ada <{}> x",
    "Ada <{}",
    "Ada {}>",
    "A,B <{}>",
    "Ada < {} >",
    "Ada <<{}>>",
    "<x> <{}>",
    '"" <{}>',
    '" <{}>',
    "Ada<{}>",
    "mailto:{}",
    "{},{}",
    " {} ",
    "\u3000{}\u00a0",
    "{}\x1f",
    "{}\n",
    "\tAda\t<{}>\u2003",
]
LISTED = [
    f"{local}@{domain}"
    for local, domain in product(LOCALS.split() + ODD_LOCALS, DOMAINS.split() + ODD_DOMAINS)
]
LISTED += [
    form.replace("{}", address) for form in NAMED for address in ("Ada@Example.com", "a..b@c", "ä@ß.de")
]
LISTED += ["", " ", "@", "@@", "ada", "<>", '"', "\x00", "a@b@c.com", "x" * 2036 + "@example.com", " " * 2048]
LISTED += [
    "a@x.com" + " " * 2041,
    "a@x.com" + " " * 2042,
    "\U0001d4b6@x.com",
    "a@x.com\ufeff",
    "\ufeffa@x.com",
]

EMAIL_STR = TypeAdapter(EmailStr)


def expected(address: str) -> str | None:
    """What EmailStr makes of it, in lower case; None where it refuses.

    Both lower cases of Σ are one, but not in the domain: σ.gr and ς.gr are two (RFC 5894, 7.2).
    """
    try:
        local, at, domain = EMAIL_STR.validate_python(address).rpartition("@")
    except ValidationError:
        return None
    return unicodedata.normalize("NFC", local.lower().replace("ς", "σ") + at + domain.lower())


def parsed(address: str) -> str | None:
    """What we make of it."""
    try:
        return str(Email.parse(address))
    except ValueError:
        return None


def test_the_listed_addresses_are_taken_and_refused_as_emailstr_does() -> None:
    wrong = {address: (parsed(address), expected(address)) for address in LISTED}
    assert {address: pair for address, pair in wrong.items() if pair[0] != pair[1]} == {}
    assert sum(taken is not None for taken, _ in wrong.values()) > 300  # the list tests both answers
    assert sum(taken is None for taken, _ in wrong.values()) > 300


@pytest.mark.parametrize("value", [None, 7, 1.5, True, b"ada@example.com", ["ada@example.com"], {}])
def test_what_is_no_text_is_no_address(value: object) -> None:
    with pytest.raises(TypeError):
        Email.parse(value)


ATOMS = st.sampled_from(
    ["a", "Z", "7", "é", "e\u0301", "É", "ß", "Σ", "İ", "ж", "Ж", "用", "ｘ", "x" * 20, "+", "_", "'"]
)
RARE = st.sampled_from(
    [".", "..", "-", "--", " ", "\t", '"', "\\", "@", "<", ">", "(", ")", "[", "xn--", "\u200d", "。"]
)
TEXT = st.lists(ATOMS, min_size=1, max_size=6).map("".join)
DOTTED = st.lists(TEXT, min_size=1, max_size=3).map(".".join)
LABEL = st.text("abcxyzABC0189é-ßжΣ用", min_size=1, max_size=12)
DOMAIN = st.builds(
    "{}.{}".format, LABEL, st.sampled_from(["com", "COM", "co.uk", "de", "xn--p1ai", "test", "рф"])
)
WILD = st.lists(ATOMS | RARE, max_size=8).map("".join)
ADDRESS = st.builds("{}@{}".format, DOTTED | WILD, DOMAIN | WILD) | st.emails() | WILD
GENERATED = ADDRESS | st.builds(
    lambda form, address: form.replace("{}", address), st.sampled_from(NAMED), ADDRESS
)


@settings(max_examples=300)
@given(GENERATED)
def test_generated_addresses_are_taken_and_refused_as_emailstr_does(address: str) -> None:
    assert parsed(address) == expected(address)


@settings(max_examples=300)
@given(st.builds("{}@{}".format, DOTTED, DOMAIN))
@example("İ@İ.com")
@example("a@ß--0.com")
@example("H\u0331@ΑΣ.gr")
@example("e\u0301\u0323@example.com")
def test_the_canonical_form_is_its_own_canonical_form(address: str) -> None:
    canonical = parsed(address)
    if canonical is not None:
        assert parsed(canonical) == canonical
        if canonical.upper().lower() == canonical:  # ß becomes SS, which is another domain and may be none
            assert parsed(canonical.upper()) == canonical
        assert canonical == canonical.lower() == unicodedata.normalize("NFC", canonical)


SPELLINGS = (
    "Ädä@Bücher.example.com",
    "ädä@bücher.example.com",
    "ÄDÄ@BÜCHER.EXAMPLE.COM",
    "  ädä@bücher.example.com\t",
    "a\u0308da\u0308@bücher.example.com",
    "A\u0308DA\u0308@BU\u0308CHER.example.com",
    "ädä@xn--bcher-kva.example.com",
    "ädä@XN--BCHER-KVA.Example.com",
    "ädä@bücher。example。com",
    "ädä@bücher.ｅxample.com",
    "Ada <ädä@bücher.example.com>",
    '"L., Ada" <ÄDÄ@xn--bcher-kva.example.com>',
)


def test_all_spellings_of_an_address_are_one_user(client: httpx.Client, users: list[dict[str, Any]]) -> None:
    body = {"email": SPELLINGS[7], "password": "correct horse"}
    user = client.post("/users", json=body).raise_for_status().json()
    assert user["email"] == "ädä@bücher.example.com"
    for spelling in SPELLINGS:
        taken = problem(client.post("/users", json={**body, "email": spelling}), 409)
        assert pointers(taken) == {"#/email"}, spelling
        problem(client.patch(f"/users/{users[1]['id']}", json={"email": spelling}), 409)
        assert client.get("/users", params={"email": spelling}).json()["users"] == [user], spelling
    assert client.get("/users").json()["users"] == [*users, user]

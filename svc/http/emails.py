"""Email addresses in one canonical form."""

import re
import unicodedata
from typing import ClassVar, Self

from email_validator import SPECIAL_USE_DOMAIN_NAMES, EmailNotValidError, validate_email


class Email(str):
    """An email address in its one canonical form: what Pydantic's `EmailStr` takes, in lower case.

    Mailboxes that differ in case alone are one mailbox in practice; the domain always is (RFC 5321
    2.3.11, 2.4). NFC comes last because lower-casing can undo it.
    """

    __slots__ = ()

    LONGEST: ClassVar = 2048
    PLAIN: ClassVar = re.compile(r"[a-z0-9_+]+(?:[.-][a-z0-9_+]+)*@(?:[a-z0-9]+(?:-[a-z0-9]+)*\.)+[a-z]{2,}")
    SPECIAL: ClassVar = tuple(SPECIAL_USE_DOMAIN_NAMES)
    NAME: ClassVar = re.compile(r"[\w.!#$%&'*+\-/=?^_`{|}~]*")
    AFTER_QUOTES: ClassVar = re.compile(r'"\s*<')

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read one. Raises ValueError, or TypeError for what is no text."""
        if not isinstance(value, str):
            raise TypeError("Expected `str`")
        if len(value) <= 64 and value.isascii():  # no part of it is too long: most need 2 µs instead of 80
            plain = value.lower()
            if cls.PLAIN.fullmatch(plain) and not plain.endswith(cls.SPECIAL):
                return cls(plain)
        if len(value) > cls.LONGEST:
            raise ValueError(f"Expected an email address of at most {cls.LONGEST} characters")
        if "\r" in value or "\n" in value:
            raise ValueError("Expected an email address on one line")
        try:
            valid = validate_email(cls._find_address(value.strip()), check_deliverability=False)
        except EmailNotValidError as error:
            raise ValueError(f"Not an email address: {error}") from None
        mailbox = valid.local_part.lower().replace("ς", "σ")  # both are the lower case of Σ
        return cls(unicodedata.normalize("NFC", f"{mailbox}@{valid.domain.lower()}"))

    @classmethod
    def _find_address(cls, value: str) -> str:
        """Return the address in `Ada <ada@example.com>` or `"Ada" <…>`; all of it where it has no name.

        Its parts are looked for one by one: as one pattern it tried each way to share out 2,000 blanks.
        """
        if not value.endswith(">"):
            return value
        name, _, address = value.partition("<")
        if value.startswith('"'):
            ends = [
                found.end() for found in cls.AFTER_QUOTES.finditer(value, 2) if found.end() < len(value) - 1
            ]
            address = value[ends[-1] :] if ends else ""
        elif not cls.NAME.fullmatch("".join(name.split())):
            return value
        return address[:-1].strip() or value

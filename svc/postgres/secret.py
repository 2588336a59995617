"""What a secret column of the database arrives as: a value that shows itself nowhere."""

from typing import Any, Final, Generic, NoReturn, TypeVar, cast, final

T = TypeVar("T")


@final
class Secret(Generic[T]):
    """A value out of a secret column. `reveal` alone gives it back, to one module: `svc check` holds that.

    It is no text and no bytes: nothing encodes it, compares it, joins it, formats it or copies it, and what a
    log or a traceback shows of it is `Secret(…)`. Each other way raises TypeError.
    """

    __slots__ = ("__value",)

    def __init__(self, value: T) -> None:
        self.__value: Final = value

    def __repr__(self) -> str:
        return "Secret(…)"

    def _refuse(self, *_: Any) -> NoReturn:
        raise TypeError("A secret shows itself nowhere")

    __str__ = __format__ = __bytes__ = __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __hash__ = __bool__ = __iter__ = __len__ = __contains__ = __getitem__ = __add__ = __radd__ = _refuse
    __mod__ = __rmod__ = __reduce__ = __reduce_ex__ = __copy__ = __deepcopy__ = __getstate__ = _refuse
    __int__ = __float__ = __index__ = __complex__ = __fspath__ = __buffer__ = _refuse


def reveal(secret: Secret[T]) -> T:
    """Return the value."""
    return cast("T", getattr(secret, "_Secret__value"))  # noqa: B009  # mypy and pyright know no other way

"""PostgreSQL's numbers for kinds of nodes, as trees have them (nodes/nodes.h, parsenodes.h, primnodes.h)."""

from enum import IntFlag, StrEnum


class Statement(StrEnum):
    """What a query does."""

    SELECT = "1"
    UPDATE = "2"
    INSERT = "3"
    DELETE = "4"
    MERGE = "5"


class Entry(StrEnum):
    """What an entry of a range table is."""

    RELATION = "0"
    SUBQUERY = "1"
    JOIN = "2"
    FUNCTION = "3"
    VALUES = "5"
    CTE = "6"
    RESULT = "8"
    GROUP = "9"


class Sublink(StrEnum):
    """What a sub-query in an expression is for."""

    EXISTS = "0"
    ALL = "1"
    ANY = "2"
    ONE = "4"
    ARRAY = "6"


class Param(StrEnum):
    """Whose a parameter is: the statement's, or a sub-query's that sets several columns."""

    EXTERNAL = "0"
    MULTIPLE = "3"


class Returned(StrEnum):
    """Which row `returning` gives, where it says so."""

    OLD = "1"
    NEW = "2"


class Permission(IntFlag):
    """What a statement must be allowed to do to a relation (utils/acl.h)."""

    INSERT = 1
    SELECT = 2
    UPDATE = 4
    DELETE = 8

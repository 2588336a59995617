"""A small grammar of queries over the schema of tests/check/conformance: joins, groups and sub-queries at random.

What it makes is of two types, `int` and `text`, so that nearly all of it prepares; what comes out may be arrays
of these. Each query is a function of its dice alone.
"""

import random
from itertools import count
from typing import NamedTuple

TABLES = {
    "teams": "id:int name:text motto:text size:int key:text",
    "members": "id:int team_id:int boss_id:int email:text rank:int token:text initial:text doubled:int"
    " notes:jsonb marks:int[] labels:text[]",
    "halves": "id:int a:text b:text",
    "side.orders": "id:int member_id:int code:text other:text",
    "events": "id:int kind:text detail:text",
    "logins": "id:int kind:text detail:text",
    "animals": "id:int name:text",
    "cats": "id:int name:text lives:int",
    "team_names": "id:int name:text motto:text",
    "member_teams": "id:int email:text team:text",
    "shown_keys": "id:int name:text shown:text",
    "team_sizes": "id:int",
}
"""Tables and views, with columns of these types (a domain of text is one)."""

CHANGED = {
    "teams": ("motto", "text"),
    "members": ("team_id", "int"),
    "halves": ("a", "text"),
    "animals": ("name", "text"),
}
"""Tables that are changed, each in a column that takes most values."""

CONSTANTS = {
    "int": ["0", "1", "2", "null::int", ":n::int", ":maybe_n::int"],
    "text": ["'a'", "''", "'b'", "null::text", ":name::text", ":maybe_name::text"],
}


TAKEN = {
    ("jsonb", "int"): ["({} -> 'a')::int", "({} ->> 'b')::int", "jsonb_array_length(jsonb_build_array({}))"],
    ("jsonb", "text"): ["({} ->> 'a')", "jsonb_typeof({})", "({}::text)"],
    ("int[]", "int"): ["({}[1])", "cardinality({})", "array_length({}, 1)"],
    ("text[]", "text"): ["({}[1])", "array_to_string({}, ',')", "({} || 'x'::text)[1]"],
}
"""What can be taken out of a column of another type."""


class Column(NamedTuple):
    """What a query can name, and its type."""

    text: str
    type: str


Columns = list[Column]


class Grammar:
    """Makes queries out of dice."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self._numbers = count()

    def statement(self) -> str:
        """A whole statement."""
        kind = self.dice.random()
        if kind < 0.6:
            return self.query(3, [])[0]
        if kind < 0.75:
            return self._arrays()
        if kind < 0.85:
            inner, columns = self.query(2, [])
            name = self._name()
            named = [Column(f"{name}.{column.text}", column.type) for column in columns]
            return f"with {name} as ({inner}) {self._plain(f'{name} {self.sides(named)}', named, 1)[0]}"
        return self._change()

    def _arrays(self) -> str:
        """A query of arrays: of the rows of another one, all together or by one of its columns."""
        inner, found = self.query(2, [])
        name = self._name()
        columns = [Column(f"{name}.{column.text}", column.type) for column in found]
        key = self.dice.choice(columns)
        grouped = self.dice.random() < 0.5
        targets = [key.text] if grouped else []
        for _ in range(2):
            type_ = self.dice.choice(["int", "text"])
            value = self.expression(columns, type_, 1)
            only = f" filter (where {self.condition(columns, 0)})" if self.dice.random() < 0.3 else ""
            forms = [
                f"array_agg({value}){only}",
                f"array_agg({value} order by {key.text}){only}",
                f"coalesce(array_agg({value}){only}, '{{}}')",
                f"array_remove(array_agg({value}), null)",
                f"array({self.query(1, [], [type_])[0]})",
                f"array[max({value}), min({value})]",
                f"array_agg({value}) || array[max({value})]",
                f"(array_agg({value}))[1:2]",
            ]
            targets.append(self.dice.choice(forms))
        listed = ", ".join(f"{target} as {self._name()}" for target in targets)
        return f"select {listed} from ({inner}) {name}{f' group by {key.text}' if grouped else ''}"

    def sides(self, columns: Columns) -> str:
        """Perhaps a further join beside what is there."""
        if self.dice.random() < 0.5:
            return ""
        text, more = self.source(1, [])
        condition = self.condition([*columns, *more], 1)
        columns += more
        return f"{self.dice.choice(['join', 'left join', 'right join'])} {text} on {condition}"

    def query(self, depth: int, outer: Columns, types: list[str] | None = None) -> tuple[str, Columns]:
        """A query, with its columns; of given types where it must fit others."""
        if depth > 1 and self.dice.random() < 0.12:
            left, columns = self.query(depth - 1, outer, types)
            right, _ = self.query(depth - 1, outer, [column.type for column in columns])
            word = self.dice.choice(["union", "union all", "intersect", "except"])
            return f"({left}) {word} ({right})", columns
        text, columns = self.source(depth, outer)
        scope = [*columns, *outer]
        if self.dice.random() < 0.3:
            return self._grouped(text, columns, scope, depth, types)
        return self._plain(text, scope, depth, types)

    def _plain(
        self, source: str, scope: Columns, depth: int, types: list[str] | None = None
    ) -> tuple[str, Columns]:
        """A query without groups."""
        targets: list[str] = []
        columns: Columns = []
        for type_ in types or self.dice.choices(["int", "text"], k=self.dice.randint(1, 3)):
            windowed = depth > 1 and self.dice.random() < 0.15
            expression = self._windowed(scope, type_) if windowed else self.expression(scope, type_, depth)
            self._add(expression, type_, targets, columns)
        distinct = "distinct " if self.dice.random() < 0.1 else ""
        return (
            f"select {distinct}{', '.join(targets)} from {source}{self._where(scope, depth)}{self._limit()}",
            columns,
        )

    def _grouped(
        self, source: str, columns: Columns, scope: Columns, depth: int, types: list[str] | None
    ) -> tuple[str, Columns]:
        """A query with groups, or with one for all rows."""
        keys = self.dice.sample(columns, min(len(columns), self.dice.randint(0, 2)))
        listed = ", ".join(key.text for key in keys)
        forms = [
            f" group by {listed}",
            f" group by rollup ({listed})",
            f" group by grouping sets (({listed}), ())",
        ]
        groups = self.dice.choice([forms[0], *forms]) if keys else ""
        targets: list[str] = []
        found: Columns = []
        for type_ in types or self.dice.choices(["int", "text"], k=self.dice.randint(1, 3)):
            fitting = [key.text for key in keys if key.type == type_]
            plain = fitting and self.dice.random() < 0.5
            self._add(
                self.dice.choice(fitting) if plain else self._aggregate(scope, type_), type_, targets, found
            )
        having = f" having {self._aggregate(scope, 'int')} > 0" if self.dice.random() < 0.2 else ""
        where = self._where(scope, depth)
        return f"select {', '.join(targets)} from {source}{where}{groups}{having}{self._limit()}", found

    def _add(self, expression: str, type_: str, targets: list[str], columns: Columns) -> None:
        name = self._name()
        targets.append(f"{expression} as {name}")
        columns.append(Column(name, type_))

    def _where(self, scope: Columns, depth: int) -> str:
        return f" where {self.condition(scope, depth)}" if self.dice.random() < 0.6 else ""

    def _limit(self) -> str:
        forms = ["", "", "", "", " limit 1", " limit 2", " offset 1", " limit :n::int"]
        return self.dice.choice(forms)

    def source(self, depth: int, outer: Columns) -> tuple[str, Columns]:
        """What a query reads, with the columns that it may name."""
        kind = self.dice.random() if depth > 0 else 0.0
        if kind < 0.45:
            table = self.dice.choice([*TABLES])
            name = self._name()
            parts = [column.split(":") for column in TABLES[table].split()]
            return f"{table} {name}", [Column(f"{name}.{column}", type_) for column, type_ in parts]
        if kind < 0.55:
            inner, columns = self.query(depth - 1, [])
            name = self._name()
            return f"({inner}) {name}", [Column(f"{name}.{column.text}", column.type) for column in columns]
        if kind < 0.62:
            name = self._name()
            rows = ", ".join(f"({self._constant('int')}, {self._constant('text')})" for _ in range(2))
            return f"(values {rows}) {name} (x, y)", [Column(f"{name}.x", "int"), Column(f"{name}.y", "text")]
        return self._join(depth, outer)

    def _join(self, depth: int, outer: Columns) -> tuple[str, Columns]:
        left, columns = self.source(depth - 1, outer)
        word = self.dice.choice(["join", "left join", "left join", "right join", "full join", "cross join"])
        if word in ("join", "left join") and self.dice.random() < 0.25:
            inner, found = self.query(depth - 1, [*columns, *outer])
            name = self._name()
            right, more = f"lateral ({inner}) {name}", [Column(f"{name}.{c.text}", c.type) for c in found]
        else:
            right, more = self.source(depth - 1, [])
        both = [*columns, *more]
        if word == "cross join":
            return f"({left} cross join {right})", both
        pairs = [(a, b) for a in columns for b in more if a.type == b.type]
        if pairs and (word == "full join" or self.dice.random() < 0.5):
            one, other = self.dice.choice(pairs)
            return f"({left} {word} {right} on {one.text} = {other.text})", both
        condition = "true" if word == "full join" else self.condition([*both, *outer], depth - 1)
        return f"({left} {word} {right} on {condition})", both

    def condition(self, scope: Columns, depth: int) -> str:
        """Something that is true, false or unknown."""
        type_ = self.dice.choice(["int", "text"])
        one = self.expression(scope, type_, 0)
        kind = self.dice.randint(0, 11 if depth > 0 else 7)
        if kind < 5:
            return f"{one} {self.dice.choice(['=', '<>', '<', '>='])} {self.expression(scope, type_, 0)}"
        if kind < 7:
            return f"{one} is {self.dice.choice(['', 'not '])}null"
        if kind == 7:
            return f"{one} is distinct from {self.expression(scope, type_, 0)}"
        if kind == 8:
            parts = [self.condition(scope, depth - 1) for _ in range(2)]
            return f"({self.dice.choice([' and ', ' or ']).join(parts)})"
        if kind == 9:
            return f"not ({self.condition(scope, depth - 1)})"
        inner, _ = self.query(depth - 1, scope, [type_])
        return f"exists ({inner})" if kind == 10 else f"{one} in ({inner})"

    def expression(self, scope: Columns, type_: str, depth: int) -> str:
        """A value of a type."""
        fitting = [column.text for column in scope if column.type == type_]
        if fitting and self.dice.random() < (0.5 if depth > 0 else 0.8):
            return self.dice.choice(fitting)
        if depth <= 0:
            return self._constant(type_)
        taken = [form.format(c.text) for c in scope for form in TAKEN.get((c.type, type_), ())]
        if taken and self.dice.random() < 0.3:
            return self.dice.choice(taken)
        return self._composed(scope, type_, depth)

    def _composed(self, scope: Columns, type_: str, depth: int) -> str:
        """A value that is made of others."""
        parts = [self.expression(scope, type_, depth - 1) for _ in range(2)]
        kind = self.dice.randint(0, 6)
        if kind == 0:
            return f"coalesce({', '.join(parts)})"
        if kind == 1:
            otherwise = f" else {parts[1]}" if self.dice.random() < 0.7 else ""
            return f"case when {self.condition(scope, depth - 1)} then {parts[0]}{otherwise} end"
        if kind == 2:
            inner, _ = self.query(depth - 1, scope, [type_])
            return f"({inner})"
        if kind == 3:
            return f"{self.dice.choice(['greatest', 'least', 'nullif'])}({', '.join(parts)})"
        if type_ == "text":
            forms = [
                "{0} || {1}",
                "upper({0})",
                "left({0}, 1)",
                "concat({0}, {1})",
                "coalesce(name_of({2}), {1})",
            ]
        else:
            forms = ["{0} + {1}", "length({3})", "abs({0})", "add_one({0})", "cardinality(array[{0}, {1}])"]
        others = [self.expression(scope, other, 0) for other in ("int", "text")]
        return f"({self.dice.choice(forms).format(*parts, *others)})"

    def _constant(self, type_: str) -> str:
        return self.dice.choice(CONSTANTS[type_])

    def _aggregate(self, scope: Columns, type_: str) -> str:
        argument = self.expression(scope, type_, 0)
        only = f" filter (where {self.condition(scope, 0)})" if self.dice.random() < 0.2 else ""
        if type_ == "int":
            forms = ["count(*)", "count({})", "sum({})", "max({})", "min({})", "cardinality(array_agg({}))"]
        else:
            forms = ["max({})", "min({})", "string_agg({}, ',')", "any_value({})"]
        form = self.dice.choice(forms)
        filtered = only if form.endswith(")") and "cardinality" not in form else ""
        return f"({form.format(argument)}{filtered})::{type_}"

    def _windowed(self, scope: Columns, type_: str) -> str:
        argument, by = self.expression(scope, type_, 0), self.expression(scope, "int", 0)
        forms = [
            "max({})",
            "lag({})",
            "lead({}, 1, {})",
            "first_value({})",
            "last_value({})",
            "nth_value({}, 2)",
        ]
        call = self.dice.choice(["row_number()", "count(*)", *forms] if type_ == "int" else forms)
        part = f"partition by {self.expression(scope, 'int', 0)} " if self.dice.random() < 0.3 else ""
        return f"({call.format(argument, argument)} over ({part}order by {by}))::{type_}"

    def _change(self) -> str:
        """An insert, an update or a delete that gives out what it did."""
        table = self.dice.choice([*CHANGED])
        column, type_ = CHANGED[table]
        parts = [each.split(":") for each in TABLES[table].split()]
        scope = [Column(f"{table}.{name}", kind) for name, kind in parts]
        kind = self.dice.randint(0, 3)
        targets, columns = list[str](), Columns()
        for name, each in self.dice.sample(parts, 2):
            old = self.dice.choice(["old.", "new.", f"{table}."]) if kind else f"{table}."
            self._add(f"{old}{name}", each, targets, columns)
        returning = f" returning {', '.join(targets)}"
        if kind == 0:
            inner, _ = self.query(1, [], ["int", "text", "text"])
            conflict = self.dice.choice(
                ["", " on conflict do nothing", " on conflict (id) do update set b = excluded.a"]
            )
            chosen = ", ".join(f"halves.{name} as {self._name()}" for name in ("id", "a", "b"))
            return f"insert into halves (id, a, b) {inner}{conflict} returning {chosen}"
        if kind == 1:
            return f"delete from {table}{self._where(scope, 2)}{returning}"
        more, found = self.source(1, [])
        value = self.expression([*scope, *found], type_, 1)
        if kind == 2:
            return f"update {table} set {column} = {value} from {more}{self._where([*scope, *found], 1)}{returning}"
        on = self.condition([*scope, *found], 0)
        then = self.dice.choice(["delete", f"update set {column} = {value}"])
        return f"merge into {table} using {more} on {on} when matched then {then}{returning}"

    def _name(self) -> str:
        return f"n{next(self._numbers)}"

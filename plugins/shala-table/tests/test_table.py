"""Rows of tables: formats, missing cells, exact likelihoods against scipy, calibrated conditionals, and errors."""

import json
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy import stats
from shala_table import Table
from shala_table.columns import Column, Thinned
from shala_table.networks import Layout, TableDecoder, TableLikelihood, squashed
from torch import Tensor

from shala_framework.plugin import DataError, encode_npy
from shala_framework.plugin.testing import ModalitySuite


def patient(index: int) -> dict[str, Any]:
    """A row with two numbers, two columns of categories, and a gap in every third row."""
    generator = np.random.default_rng(index)
    row: dict[str, Any] = {
        "age": round(float(generator.normal(60, 12)), 1),
        "sex": "fm"[index % 2],
        "creatinine": float(np.exp(generator.normal(4.4, 0.3))),
        "ward": ["A", "B", "C", "B"][index % 4],
    }
    if index % 3 == 2:
        row["creatinine"] = None
    return row


class TestRows(ModalitySuite):
    """The contract, for rows with missing cells."""

    modality = Table
    options: ClassVar = {"width": 16, "num_layers": 1}
    independent_values = False  # categories are floats in x; the sum is checked below

    def sample_fields(self, index: int) -> dict[str, bytes]:
        return {"table.json": json.dumps(patient(index)).encode()}


class TestCsvRowsWithHeavyTails(TestRows):
    """The contract, for CSV and Student-t numbers."""

    options: ClassVar = {"fields": ("csv",), "likelihood": "student", "cell_dropout": 0.2, "width": 16}

    def sample_fields(self, index: int) -> dict[str, bytes]:
        row = patient(index)
        cells = ("" if cell is None else str(cell) for cell in row.values())
        return {"csv": f"{','.join(row)}\n{','.join(cells)}\n".encode()}


class TestVectors(ModalitySuite):
    """The contract, for plain vectors, with densities that integrate to 1."""

    modality = Table
    options: ClassVar = {"allow_missing": False, "width": 16}

    def sample_fields(self, index: int) -> dict[str, bytes]:
        return {"npy": encode_npy(np.random.default_rng(index).normal(3, 7, 5))}


class TestHeavyTailedVectors(TestVectors):
    """The same for Student-t numbers, whose draws follow their density too."""

    options: ClassVar = {"allow_missing": False, "likelihood": "student", "width": 16}


def fitted(*rows: Any, field: str = "table.json", **options: Any) -> Table:
    table = Table(**options)
    table.fit({field: row if isinstance(row, bytes) else json.dumps(row).encode()} for row in rows)
    return table


def read(table: Table, row: Any, field: str = "table.json") -> Tensor:
    x = table.read({field: row if isinstance(row, bytes) else json.dumps(row).encode()})
    assert x is not None
    return x


PATIENTS = [patient(index) for index in range(40)]


# Likelihoods.


@pytest.mark.parametrize("degrees", [None, (1.0, 3.7)])
def test_log_prob_is_that_of_scipy(degrees: tuple[float, ...] | None) -> None:
    """Gaussian, Student-t and categorical cells have scipy's density and probability; missing ones count nothing."""
    generator = torch.Generator().manual_seed(0)
    layout = Layout((0, 3, 0, 2), masked=True)
    mean, logits, log_scale = (torch.randn(shape, generator=generator) for shape in ((6, 2), (6, 5), (2,)))
    x = torch.stack([torch.randn(6, 4, generator=generator), torch.ones(6, 4)], 1)
    x[:, 0, 1], x[:, 0, 3] = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([0, 1, 0, 1, 0, 1])
    numeric = torch.tensor(layout.numeric)
    likelihood = TableLikelihood(
        layout, numeric, mean, log_scale, logits, None if degrees is None else torch.tensor(degrees)
    )
    location, scale = mean.double().numpy(), log_scale.double().exp().numpy()
    numbers = stats.norm(location, scale) if degrees is None else stats.t(np.array(degrees), location, scale)
    cells = np.empty((6, 4))
    cells[:, [0, 2]] = numbers.logpdf(x[:, 0, [0, 2]].double().numpy())
    for column, part in ((1, logits[:, :3]), (3, logits[:, 3:])):
        log_probs = part.double().log_softmax(1).numpy()
        cells[:, column] = log_probs[np.arange(6), x[:, 0, column].long().numpy()]
    np.testing.assert_allclose(likelihood.log_prob(x), cells.sum(1), rtol=1e-5)
    known = torch.rand(6, 4, generator=generator) > 0.5
    x[:, 1] = known.float()
    x[:, 0] = x[:, 0].masked_fill(~known, 0.0)
    np.testing.assert_allclose(likelihood.log_prob(x), (cells * known.numpy()).sum(1), rtol=1e-4, atol=1e-5)


def test_only_known_cells_are_values() -> None:
    """A row has as many values as known cells; without missing cells it has one for each column."""
    rows = torch.tensor([[[1.0, 2, 0], [1, 1, 0]], [[0, 5, 0], [0, 1, 0]]])
    numbers = [{"a": 1.0, "b": n, "c": n} for n in range(5)]
    assert fitted(*numbers).count_values(rows).tolist() == [2, 1]
    assert fitted(*numbers, allow_missing=False).count_values(rows[:, 0]).tolist() == [3, 3]


@pytest.mark.parametrize("degrees", [None, (1.5, 8.0)])
def test_draws_follow_the_density(degrees: tuple[float, ...] | None) -> None:
    """Numbers pass a Kolmogorov-Smirnov test, categories a chi-squared test, and every drawn cell is known."""
    layout, num_draws = Layout((0, 3, 0), masked=True), 20_000
    mean, logits = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, 1.0, -1.0]])
    likelihood = TableLikelihood(
        layout,
        torch.tensor(layout.numeric),
        mean.expand(num_draws, -1),
        torch.tensor([0.5, -1.0]),
        logits.expand(num_draws, -1),
        None if degrees is None else torch.tensor(degrees),
    )
    drawn = likelihood.sample(torch.Generator().manual_seed(0))
    assert (drawn[:, 1] == 1).all()
    for column, location, log_scale, index in ((0, 1.0, 0.5, 0), (2, -2.0, -1.0, 1)):
        scale = float(np.exp(log_scale))
        numbers = stats.norm(location, scale) if degrees is None else stats.t(degrees[index], location, scale)
        assert stats.kstest(drawn[:, 0, column].double().numpy(), numbers.cdf).pvalue > 1e-3
    counts = torch.bincount(drawn[:, 0, 1].long(), minlength=3)
    assert stats.chisquare(counts, num_draws * logits.double().softmax(1)[0]).pvalue > 1e-3


def test_each_column_learns_its_scale_and_tails() -> None:
    """Fitted to noise alone, the learned scales are those of the columns, and only the heavy tail has few degrees."""
    torch.manual_seed(0)
    noise = torch.randn(4_000, 3) * torch.tensor([0.05, 1.0, 1.0])
    noise[:, 2] = torch.from_numpy(stats.t(2.0).rvs(4_000, random_state=0)).float()
    decoder = TableDecoder(Layout((0, 0, 0), masked=False), 8, 1, 2, heavy_tails=True)
    optimiser = torch.optim.Adam(decoder.parameters(), lr=1e-2)
    for _ in range(400):
        optimiser.zero_grad()
        (-decoder(torch.zeros(4_000, 2)).log_prob(noise).mean()).backward()
        optimiser.step()
    likelihood = decoder(torch.zeros(1, 2))
    torch.testing.assert_close(likelihood.log_scale_N.exp(), torch.tensor([0.05, 1.0, 1.0]), rtol=0.1, atol=0)
    assert 1.5 < likelihood.degrees_N[2] < 2.6
    assert likelihood.degrees_N[:2].min() > 10


def test_missing_cells_do_not_reach_the_encoder() -> None:
    """Whatever lies below a missing cell changes nothing; that it is missing does; an outlier stays bounded."""
    encoder = fitted(*PATIENTS, width=16).encoder(5).eval()
    x = torch.zeros(3, 2, 4)
    x[0, 1], x[1, 1] = torch.tensor([1.0, 1, 0, 0]), torch.tensor([1.0, 1, 0, 0])
    x[1, 0, 2:], x[2, 1] = torch.tensor([7.0, 2.0]), torch.tensor([1.0, 1, 1, 0])
    with torch.no_grad():
        h = encoder(x)
    torch.testing.assert_close(h[0], h[1])
    assert not torch.allclose(h[0], h[2])
    far = squashed(torch.tensor([-1e6, -3.0, 0.0, 4.9, 5.1]))
    assert far.diff().min() > 0
    assert far.abs().max() < 20
    torch.testing.assert_close(far[1:4], torch.tensor([-3.0, 0.0, 4.9]))


def test_hidden_cells_are_missing_ones() -> None:
    """Each known cell is hidden with its row's probability, at least one is left, and missing ones stay so."""
    table = fitted(*PATIENTS, cell_dropout=0.3)
    assert table.hidden_share == 0.3
    assert fitted(*PATIENTS, allow_missing=False).hidden_share == 0
    x = torch.stack([read(table, row) for row in PATIENTS[:4]]).repeat(2_000, 1, 1)
    x[::2, :, 0] = 0.0  # missing
    known, uniform = x[:, 1] > 0.5, torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
    for share in (0.0, 0.3, 1.0):
        hidden = table.hide(x, torch.full((len(x),), share), uniform)
        kept = hidden[:, 1] > 0.5
        assert not (kept & ~known).any()
        assert torch.equal(hidden[:, 0], x[:, 0] * kept)
        assert kept.sum(1).min() == (known.sum(1).min() if share == 0 else 1)
        if share < 1:  # all cells are hidden together too rarely to matter
            assert abs(kept.sum() / known.sum() - (1 - share)) < 0.02
        else:
            assert kept.sum(1).max() == 1
    assert torch.equal(table.hide(x, torch.zeros(len(x)), uniform), x * torch.stack([known, torch.ones_like(known)], 1))


def test_a_table_may_have_categories_alone() -> None:
    """Without numbers there is no scale to learn, and probabilities of all rows sum to 1."""
    table = fitted(*[{"a": "xy"[n % 2], "b": "pqr"[n % 3]} for n in range(6)], likelihood="student", width=16)
    rows = torch.tensor([[[a, b], [1, 1]] for a in range(2) for b in range(3)]).float()
    decoder = table.decoder(3).eval()
    with torch.no_grad():
        assert table.encoder(4).eval()(rows).isfinite().all()
        torch.testing.assert_close(decoder(torch.ones(6, 3)).log_prob(rows).exp().sum(), torch.tensor(1.0))
        assert table.write(decoder(torch.ones(1, 3)).sample()[0])


# Columns.


def test_columns_are_found() -> None:
    """Numbers and categories are told apart, centres and scales withstand outliers, and a checkpoint keeps them."""
    rows = [*PATIENTS, {"age": 1e9, "smoker": True}]
    table = fitted(*rows)
    age, sex, creatinine, ward, smoker = table.columns
    ages = [row["age"] for row in rows]
    assert age.centre == pytest.approx(np.median(ages))
    assert 6 < age.scale < 24
    assert (sex.categories, ward.categories, smoker.categories) == (("f", "m"), ("A", "B", "C"), ("true",))
    assert creatinine.is_numeric
    restored = Table()
    restored.load_state(json.loads(json.dumps(table.state())))
    assert restored.columns == table.columns
    assert torch.equal(read(restored, PATIENTS[0]), read(table, PATIENTS[0]))


def test_options_name_columns() -> None:
    """Categories written as numbers, whoever wrote them; columns that are left out; and only the named columns."""
    rows = [{"id": f"p{n}", "grade": n % 3, "score": n / 2} for n in range(200)]
    with pytest.raises(DataError, match=r"column 'id': expected at most 100 categories, .* `ignore`"):
        fitted(*rows)
    table = fitted(*rows, categorical=("grade",), ignore=("id",))
    assert [(column.name, column.categories) for column in table.columns] == [("grade", ("0", "1", "2")), ("score", ())]
    for grade in (2, 2.0, "2", "2.0"):
        assert read(table, {"id": "new", "grade": grade})[0, 0] == 2
    only = fitted(*rows, numeric=("score",), others="ignore")
    assert only.shape == (2, 1)
    assert read(only, {"score": 3, "colour": "red"}).shape == (2, 1)
    with pytest.raises(DataError, match=r"one of the columns 'score', got 'scor'"):
        read(only, {"scor": 3})


def test_scales_of_unusual_columns() -> None:
    """A column that is mostly one value has its deviation as the scale, and a constant one keeps its unit."""
    table = fitted(*[{"rare": 5.0 if n % 10 == 0 else 0.0, "same": 7.0} for n in range(100)])
    rare, same = table.columns
    assert (rare.centre, rare.scale) == (0.0, pytest.approx(1.5))
    assert (same.centre, same.scale) == (7.0, 1.0)


def test_thinned_numbers_are_evenly_spaced() -> None:
    """An evenly spaced subset of a long stream is kept."""
    thinned = Thinned(most=8)
    for value in range(100):
        thinned.add(value)
    assert np.diff(thinned.values).tolist() == [16.0] * (len(thinned.values) - 1)
    assert len(thinned.values) >= 4


# Reading and writing.


def test_formats_agree() -> None:
    """JSON and CSV with commas, semicolons or tabs give the same x, in any order of the columns."""
    table = fitted({"a": 1.5, "b": "x,y"}, {"a": 2.5, "b": "z"}, {"a": 4, "b": "z"})
    expected = read(table, {"a": 2.5, "b": "x,y"})
    for text in ('b,a\n"x,y",2.5\n', "a;b\r\n2.5;x,y\r\n", "\ufeffa\tb\n2.5\tx,y", 'a,b\n+25e-1,"x,y"'):
        assert torch.equal(read(table, text.encode(), "csv"), expected)
    for cell in (None, "", "NA", float("nan"), " null "):
        assert read(table, {"a": cell, "b": "z"})[1].tolist() == [0, 1]
    assert read(table, {"b": "z"})[1].tolist() == [0, 1]  # a column that is left out
    assert table.read({"table.json": b'{"a": null}'}) is None


def test_a_blank_row_below_names_that_are_numbers_is_missing() -> None:
    """Names such as years pass for a vector where the line below them is taken for no line."""
    table = fitted(b"2019,2020\n,\n", b"2019,2020\n1,5\n", b"2019,2020\n2,6\n\n,\n", field="csv", fields=("csv",))
    assert table.read({"csv": b"2019,2020\n,\n"}) is None
    assert read(table, b"2020,2019\n,1\n", "csv")[1].tolist() == [1, 0]


def test_vectors_are_read_in_every_format() -> None:
    """npy, a JSON list and a CSV line without a header; NaN is a missing number."""
    vectors = [np.array([1.0, 10.0, 3.0]) * n for n in range(1, 9)]
    table = fitted(*(encode_npy(vector) for vector in vectors), field="npy")
    expected = read(table, encode_npy(vectors[2]), "npy")
    assert torch.equal(read(table, vectors[2].tolist()), expected)
    assert torch.equal(read(table, b"3,30,9\n", "csv"), expected)
    gap = read(table, encode_npy(np.array([3, np.nan, 9], np.float32)), "npy")
    assert gap[1].tolist() == [1, 0, 1]
    assert table.write(gap) == {"table.json": b"[3, null, 9]\n"}
    assert table.preview(gap).text == "3 ? 9"


def test_a_vector_may_hold_categories_and_numbers_to_ignore() -> None:
    """Columns of a vector keep its order, whichever the options name; those left out are written as missing."""
    rows = [[7.0, n / 3, n % 2, n * n] for n in range(12)]
    table = fitted(*rows, categorical=("2",), ignore=("0",))
    assert [column.name for column in table.columns] == ["1", "2", "3"]
    x = read(table, [1e12, 1.0, 1, 16.0])
    np.testing.assert_allclose(table.values(x), [1, 1, 16], rtol=1e-6)
    assert table.write(x) == {"table.json": b'[null, 1, "1", 16]\n'}
    assert torch.equal(read(table, *table.write(x).values()), x)
    some = fitted(*rows, numeric=("3",), others="ignore")
    assert some.values(read(some, rows[4])).tolist() == pytest.approx([16])
    with pytest.raises(DataError, match=r"a vector of 4 numbers .*, got a vector of 2 numbers"):
        read(table, [1.0, 1])


def test_rows_are_written_in_their_units() -> None:
    """Values of any size come back to float32's digits, missing cells as null, and CSV if nothing else is readable."""
    rows = [{"t": 1.7e9 + n, "small": n * 1e-12, "kind": "ab"[n % 2]} for n in range(20)]
    table = fitted(*rows)
    (data,) = table.write(read(table, rows[3])).values()
    written = json.loads(data)
    assert written["kind"] == "b"
    assert written["small"] == pytest.approx(3e-12)
    assert written["t"] == pytest.approx(1.7e9 + 3, abs=300)
    (data,) = table.write(read(table, {"kind": "a"})).values()
    assert json.loads(data) == {"t": None, "small": None, "kind": "a"}
    as_csv = fitted(b"a,b\n1,x\n", b"a,b\n3,y\n", field="csv", fields=("csv",))
    assert as_csv.write(read(as_csv, b"b,a\nx,\n", "csv")) == {"csv": b"a,b\n,x\n"}


def test_rows_are_typed() -> None:
    """A typed object is a row whose other cells are missing."""
    table = fitted(*({"a": n, "kind": "xy"[n % 2]} for n in range(8)))
    typed = table.read(table.typed('{"kind": "y"}') or {})
    torch.testing.assert_close(typed, read(table, {"kind": "y"}))
    assert fitted(b"a\n1\n", b"a\n2\n", field="csv", fields=("csv",)).typed('{"a": 1}') is None


def test_arrays_become_x_and_come_back() -> None:
    """`tensor` and `values` convert many rows, with NaN for missing cells, and refuse what is no row."""
    table = fitted(*PATIENTS)
    values = np.array([[61.5, 0, np.nan, 2], [np.nan, 1, 88.0, 0]])
    x = table.tensor(values)
    assert torch.equal(x[0], read(table, {"age": 61.5, "sex": "f", "ward": "C"}))
    np.testing.assert_allclose(table.values(x), values, rtol=1e-6)
    for bad in (values[:, :3], np.full((1, 4), np.inf), np.array([[1.0, 2.0, 3.0, 0.0]])):
        with pytest.raises(ValueError, match="expected"):
            table.tensor(bad)
    plain = fitted([1, 2], [3, 5], allow_missing=False)
    assert plain.tensor(np.array([[1.0, 2.0]])).shape == (1, 2)
    with pytest.raises(ValueError, match="NaN"):
        plain.tensor(np.array([[1.0, np.nan]]))


# Errors.


@pytest.mark.parametrize(
    ("field", "data", "message"),
    [
        ("table.json", b'{"age": "old"}', "column 'age': expected a number, got the text 'old'"),
        ("table.json", b'{"age": "61,5"}', "write a decimal point"),
        ("table.json", b'{"age": Infinity}', "column 'age': expected a finite number"),
        ("table.json", b'{"age": "-inf"}', "column 'age': expected a finite number, got -inf"),
        ("table.json", b'{"age": 1e999}', "column 'age': expected a finite number"),
        ("table.json", b'{"age": ' + b"9" * 5_000 + b"}", "column 'age': expected a finite number"),
        ("table.json", b'{"age": 1e25}', "within 1e+06 scales"),
        ("table.json", b'{"age": [1]}', "column 'age': expected a number, a text or null, got '[1.0]'"),
        ("table.json", b'{"age": 1, "age": 2}', "column 'age' twice"),
        ("table.json", b'{"ward": "D"}', "column 'ward': expected one of the 3 categories of the training set"),
        ("table.json", b'{"agee": 3}', "got 'agee' (did you mean 'age'?)"),
        ("table.json", b"[1, 2, 3, 4]", "expected a row with named columns"),
        ("table.json", b"{}", "expected an object from columns to cells"),
        ("table.json", b"3", "expected an object from columns to cells"),
        ("table.json", b"[" * 100_000, "expected JSON"),
        ("csv", b"age,sex\n61\n", "a cell for each of the 2 columns, got 1"),
        ("csv", b"age,sex\n61,f\n62,m\n", "got 3 lines"),
        ("csv", b"age,sex\n", "got 1 lines"),
        ("csv", b"age,age\n1,2\n", "'age' twice"),
        ("csv", b"age,\n1,2\n", "name of a column"),
        ("csv", b'age,sex\n61,"f', "not readable as CSV"),
        ("csv", b"age\n1_000\n", "got the text '1_000'"),
        ("csv", b"\xff\xfea\0", "the byte 0xff at offset 0"),
        ("csv", b"a" * (1 << 25), "33,554,432 bytes"),
        ("npy", encode_npy(np.zeros((2, 2))), "expected a vector of numbers [C], got an array [2, 2]"),
    ],
)  # fmt: skip
def test_bad_rows_are_refused(field: str, data: bytes, message: str) -> None:
    """Each message names the field and the column, what was found and what was expected."""
    table = fitted(*PATIENTS)
    with pytest.raises(DataError) as caught:
        table.read({field: data})
    assert f"field {field!r}" in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([], {}, "got none; check the option `fields`"),
        ([{"a": 1}, {"a": "unknown"}], {}, "column 'a': expected a number, got the text 'unknown'"),
        ([{"a": "low"}, {"a": 1}], {}, "column 'a': expected text as in earlier rows, got the number 1.0"),
        ([{"a": None}, {"a": "NA"}], {}, "a known cell of column 'a'"),
        ([{"a": 1}], {"numeric": ("b",)}, "a known cell of column 'b' .*columns with cells: 'a'"),
        ([{"a": 1}], {"ignore": ("a",)}, "only ignored columns"),
        ([[1, 2], [1, 2, 3]], {}, "a vector of 2 numbers as before, got a vector of 3 numbers"),
        ([[1, 2], {"a": 1}], {}, "a vector of 2 numbers as before, got a row with named columns"),
        ([{"a": float("inf")}], {}, "column 'a': expected a finite number"),
        ([{"a": "x" * 300}], {}, "column 'a': expected a category, at most 200"),
    ],
)  # fmt: skip
def test_bad_training_sets_are_refused(rows: list[Any], options: dict[str, Any], message: str) -> None:
    """What cannot be learned from says why, and which option helps."""
    with pytest.raises(DataError, match=message):
        fitted(*rows, **options)


def test_missing_cells_may_be_refused() -> None:
    """With allow_missing = false, a missing cell is an error that names its column; vectors have one length."""
    table = fitted(*[{"a": n, "b": -n} for n in range(5)], allow_missing=False)
    with pytest.raises(DataError, match=r"expected every cell, got none in column 'b'"):
        read(table, {"a": 1})
    with pytest.raises(DataError, match=r"a vector of 3 numbers .*, got a vector of 2 numbers"):
        read(fitted([1, 2, 3], [4, 5, 6]), [1, 2])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"numeric": ("a",), "ignore": ("a",)}, "'a' twice"), ({"others": "ignore"}, "in numeric or categorical"),
     ({"fields": ("table",)}, "'json', 'csv', 'npy'"), ({"cell_dropout": 2.0}, "0 to 1"), ({"width": 9}, "8"),
     ({"likelihood": "cauchy"}, "student"), ({"num_layers": 0}, "1")],
)  # fmt: skip
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    """Options out of range say what was expected."""
    with pytest.raises(ValueError, match=message):
        Table.Options(**options)


def test_foreign_states_are_refused() -> None:
    """Columns of wrong types, without a name, twice or with a scale of 0 are no state of this modality."""
    good = Column("a", (), 1.0, 2.0).state()
    for columns in ([], [{}], [good, good], [good | {"scale": 0.0}], [good | {"centre": "1"}], [3],
                    [{"name": "a", "categories": []}], [{"name": "a", "categories": ["x", "x"]}]):  # fmt: skip
        with pytest.raises(ValueError, match="expected"):
            Table().load_state({"columns": columns, "vector_length": None})
    for length in (0, 1.0, "1", 10**12):
        with pytest.raises(ValueError, match="vector_length"):
            Table().load_state({"columns": [good], "vector_length": length})
    with pytest.raises(ValueError, match="fitted table"):
        Table().state()


def test_columns_that_identify_rows_are_doubted() -> None:
    """Not if few rows have them, if categories repeat, or if the options name the column."""

    def doubts(count: int, **options: Any) -> list[str]:
        table = Table(**options)
        rows = [{"who": f"p{n}", "kind": f"k{n // 2}", "size": n} for n in range(count)]
        table.fit({"table.json": json.dumps(row).encode()} for row in rows)
        return table.doubts()

    (sentence,) = doubts(20)
    assert sentence.startswith("column 'who' has 20 categories in 20 rows, as a column has that identifies rows; name")
    assert doubts(9) == []
    assert doubts(20, ignore=("who",)) == []
    assert doubts(20, categorical=("who",)) == []
    table = Table()
    table.fit([{"table.json": b'{"who": "a"}'}, {"table.json": b'{"who": "b"}'}])
    with pytest.raises(
        DataError, match="got 'c'; correct the cell or leave it blank, or name the column in the option"
    ):
        table.read({"table.json": b'{"who": "c"}'})

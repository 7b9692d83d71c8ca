"""What verbs share: the group, arguments and options, where data and models come from, how results are told."""

from __future__ import annotations

import json
import math
import mmap
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lowerbound.errors import FormatError

if TYPE_CHECKING:
    import pyarrow as pa

    from lowerbound.data import Csv, Dataset, Table
    from lowerbound.estimators import VAE

_IMPORTS = 600 << 20  # bytes of address space that the import of torch takes
BAD_DATA, MISSING, MEMORY, IO, LOCKED, INTERRUPTED = 65, 66, 71, 74, 75, 130


class Whole(click.IntRange):
    """A whole number of at least ``least``, and no more than is of use."""

    def __init__(self, least: int, most: int = 10**9) -> None:
        super().__init__(min=least)
        self.most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        number = int(super().convert(value, param, ctx))
        if number > self.most:
            self.fail(f"{number} is too large: give at most {self.most}.", param, ctx)
        return number


class Finite(click.FloatRange):
    """A number within its range and within that of single precision: no NaN, no infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not abs(number) < 1e30:
            self.fail(f"{value} is no finite number below 1e30.", param, ctx)
        return number


seeds, counts = Whole(0, 2**63 - 1), Whole(1)
run_argument = click.argument("run", type=click.Path(path_type=Path))
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
part_option = click.option(
    "--part", type=click.Choice(["train", "test"]), default="test", show_default=True, help="Of a named dataset."
)
samples_option = click.option(
    "--samples",
    type=Whole(2),
    help="Draws a row of importance sampling, instead of what each row needs.",
)


def data_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """``DATA``, and how it is written if it is a csv file; ``csv_told`` gives that."""
    options = [
        click.argument("data"),
        click.option(
            "--separator", metavar="MARK", callback=_remember, expose_value=False, help="Between the values of a csv "
            "file, as ';' or tab.  [default: told from the file]"
        ),
        click.option(
            "--decimal", type=click.Choice([".", ","]), callback=_remember, expose_value=False,
            help="Decimal mark of a csv file.  [default: told from the file]"
        ),
        click.option(
            "--missing-values", metavar="TEXT[,TEXT…]", multiple=True, callback=_remember, expose_value=False,
            help="What stands for a missing cell of a table, as '?' or -999, beside blanks, NA, NaN and null."
        ),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


_MARKS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "bar": "|", "pipe": "|", "space": " "}


def _remember(context: click.Context, option: click.Parameter, given: Any) -> Any:
    """Keep an option of how data are written, where ``csv_told`` finds it."""
    if option.name == "separator" and given is not None:
        given = _MARKS.get(given, given)
        if len(given) != 1 or given in '"\r\n':
            raise click.BadParameter(f"{given!r} is not one character, as ';', nor tab.")
    context.meta[f"lowerbound.{option.name}"] = given
    return given


def csv_told() -> Csv:
    """How the options say that data are written."""
    from lowerbound.data import Csv

    told = click.get_current_context().meta
    separator, decimal = (told.get(f"lowerbound.{name}") for name in ("separator", "decimal"))
    missing = tuple(text for each in told.get("lowerbound.missing_values") or () for text in each.split(","))
    try:
        return Csv(separator, decimal, missing)
    except ValueError as error:
        raise click.UsageError(f"--separator and --decimal: {error}") from error


def _write_safely(context: click.Context, option: click.Parameter, asked: bool) -> None:
    """Until the command ends, csv files are written by ``safe_csv``."""
    if asked:
        from lowerbound.data import safe_csv

        context.with_resource(safe_csv())


safe_csv_option = click.option(
    "--safe-csv",
    is_flag=True,
    expose_value=False,
    callback=_write_safely,
    help="Write ' before text cells of a csv file that a spreadsheet program would run as a formula.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="lowerbound")
def commands() -> None:
    """Learn, use and check deep latent-variable models by auto-encoding variational Bayes.

    DATA is a name (digits, mnist) or a path: a table (.csv, .tsv, .csv.gz, .parquet, .feather, .arrow), .npy, .npz, an
    idx file (.gz too), or a folder of MNIST's idx files. RUN is the folder of a fitted model.
    """
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        with mmap.mmap(-1, _IMPORTS):  # torch ends the process where its import finds no memory
            pass


def table_path(context: click.Context, option: click.Parameter, out: str | None) -> Path | None:
    """A path that figures can be written to, by its suffix: refused before they are computed."""
    if out is None or Path(out).suffix.lower() in (".npy", ".csv", ".parquet"):
        return None if out is None else Path(out)
    raise click.BadParameter(f"{out} cannot be written by its suffix; use .npy, .csv or .parquet.")


def source_for(vae: VAE, data: str) -> Dataset | Table | pa.Table:
    """Data as a fitted estimator takes them: a table with its columns' own types, if it was fitted to one.

    What stands for a missing cell is what it was in the fit, unless told otherwise.
    """
    from lowerbound.cli.table_options import types_of
    from lowerbound.data import Csv, load, source

    told, schema = csv_told(), vae.schema_
    if schema is None:
        return load(data, csv=told)
    fitted = schema.csv or Csv()
    told = told if told.missing else Csv(told.separator, told.decimal, fitted.missing)
    return source(data, types_of(schema), told, fitted.separator)


def rows_of(source: Dataset | Table | pa.Table, part: str) -> Any:
    """The rows to use: a part of a named dataset, or all of a file; with their column names where they have them."""
    from lowerbound.data import Dataset, Table

    if isinstance(source, Dataset):
        return source.train if part == "train" else source.test
    if not isinstance(source, Table):
        return source
    if source.names is None:
        return source.x
    import pyarrow

    return pyarrow.table({name: source.x[:, i] for i, name in enumerate(source.names)})


def is_held_out(source: Any, part: str) -> bool:
    """Whether a fit by the command line cannot have seen these rows: of a file, nobody knows."""
    from lowerbound.data import Dataset

    return isinstance(source, Dataset) and part == "test"


def fitted(run: Path) -> VAE:
    """The estimator saved in ``run``."""
    from lowerbound.estimators import VAE, load

    found = load(run)
    if not isinstance(found, VAE):
        raise FormatError(f"{run} holds a model but no VAE estimator: read it in Python, with lowerbound.load.")
    return found


def tell(result: dict[str, Any], as_json: bool, words: str) -> None:
    """The result: JSON on stdout where asked for (null for what is not finite), and words on stderr."""
    if as_json:
        click.echo(json.dumps(finite(result), allow_nan=False))
    say(words)


def finite(value: Any) -> Any:
    """The same with null for each number that is not finite."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | float | int | None) else str(value)  # a date, in a table's cell


def say(words: str, colour: str | None = None) -> None:
    words = "".join(c if c.isprintable() or c == "\n" else "?" for c in words)  # names may come from a file
    click.secho(words, err=True, fg=None if os.environ.get("NO_COLOR") else colour)


def in_words(error: OSError) -> OSError:
    """The system's own error as a sentence; one that is a sentence already, as it is."""
    if error.errno is None:
        return error
    where = f"{error.filename}: " if error.filename else ""
    return OSError(f"{where}{error.strerror}; give another path, or mend what is in the way.")

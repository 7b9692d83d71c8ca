"""Shared by all commands: the group, common arguments and options, loading of data and models, printing of results."""

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

_IMPORTS = 600 << 20  # bytes of address space that importing torch takes
BAD_DATA, MISSING, MEMORY, IO, LOCKED, INTERRUPTED = 65, 66, 71, 74, 75, 130


class Whole(click.IntRange):
    """An integer between ``least`` and ``most``."""

    def __init__(self, least: int, most: int = 10**9) -> None:
        super().__init__(min=least)
        self.most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        number = int(super().convert(value, param, ctx))
        if number > self.most:
            self.fail(f"{number} is too large: give at most {self.most}.", param, ctx)
        return number


class Finite(click.FloatRange):
    """A finite number within its range, representable in single precision."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not abs(number) < 1e30:
            self.fail(f"{value} is not a finite number below 1e30.", param, ctx)
        return number


seeds, counts = Whole(0, 2**63 - 1), Whole(1)
run_argument = click.argument("run", type=click.Path(path_type=Path))
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
part_option = click.option(
    "--part",
    type=click.Choice(["train", "test"]),
    default="test",
    show_default=True,
    help="Part of a named dataset to use.",
)
samples_option = click.option(
    "--samples",
    type=Whole(2),
    help="Importance samples per row.  [default: chosen per row to reach a target standard error, 0.1 nats by default]",
)


class OrAuto(click.ParamType[Any]):
    """A value of another type, or the word "auto"."""

    def __init__(self, of: click.ParamType[Any]) -> None:
        self.of, self.name = of, of.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == "auto" else self.of.convert(value, param, ctx)


def data_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the argument ``DATA`` and the options on how a CSV file is written; read these with ``csv_options``."""
    options = [
        click.argument("data"),
        click.option(
            "--separator", metavar="MARK", callback=_remember, expose_value=False, help="Character between "
            "the values of a CSV file, such as ';' or tab.  [default: detected]"
        ),
        click.option(
            "--decimal", type=click.Choice([".", ","]), callback=_remember, expose_value=False,
            help="Decimal mark of a CSV file.  [default: detected]"
        ),
        click.option(
            "--missing-values", metavar="TEXT[,TEXT…]", multiple=True, callback=_remember, expose_value=False,
            help="Further text that marks a missing cell, such as '?' or -999. Blanks, NA, NaN and null always do."
        ),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


_MARKS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "bar": "|", "pipe": "|", "space": " "}


def _remember(context: click.Context, option: click.Parameter, given: Any) -> Any:
    """Store an option on how data are written, for ``csv_options``."""
    if option.name == "separator" and given is not None:
        given = _MARKS.get(given, given)
        if len(given) != 1 or given in '"\r\n':
            raise click.BadParameter(f"{given!r} is neither one character, such as ';', nor tab.")
    context.meta[f"lowerbound.{option.name}"] = given
    return given


def csv_options() -> Csv:
    """Return how DATA are written, as declared by the options."""
    from lowerbound.data import Csv

    told = click.get_current_context().meta
    separator, decimal = (told.get(f"lowerbound.{name}") for name in ("separator", "decimal"))
    missing = tuple(text for each in told.get("lowerbound.missing_values") or () for text in each.split(","))
    try:
        return Csv(separator, decimal, missing)
    except ValueError as error:
        raise click.UsageError(f"--separator and --decimal: {error}") from error


def sizes(text: str, option: str = "--hidden") -> tuple[int, ...]:
    """Parse layer sizes: 256,128 → (256, 128)."""
    try:
        layers = tuple(int(size) for size in text.split(",") if size.strip())
    except ValueError:
        layers = (0,)
    if any(not 1 <= size <= 10**6 for size in layers):
        raise click.BadParameter(f"{text!r} is not a list of layer sizes such as 256,128.", param_hint=option)
    return layers


def _write_safely(context: click.Context, option: click.Parameter, asked: bool) -> None:
    """Write CSV files with ``safe_csv`` until the command ends."""
    if asked:
        from lowerbound.data import safe_csv

        context.with_resource(safe_csv())


safe_csv_option = click.option(
    "--safe-csv",
    is_flag=True,
    expose_value=False,
    callback=_write_safely,
    help="Prefix text cells that a spreadsheet program would run as a formula with ' in CSV output.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="lowerbound")
def commands() -> None:
    """Learn, use and check deep latent-variable models by auto-encoding variational Bayes.

    DATA is a name (digits, mnist) or a path: a table (.csv, .tsv, .csv.gz, .parquet, .feather, .arrow), .npy, .npz, an
    idx file (also .gz), or a folder of MNIST's idx files. RUN is the folder of a fitted model.
    """
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        with mmap.mmap(-1, _IMPORTS):  # without enough memory, importing torch would kill the process
            pass


def table_path(context: click.Context, option: click.Parameter, out: str | None) -> Path | None:
    """Check the suffix of an output path before anything is computed."""
    if out is None or Path(out).suffix.lower() in (".npy", ".csv", ".parquet"):
        return None if out is None else Path(out)
    raise click.BadParameter(f"{out} has a suffix that cannot be written; use .npy, .csv or .parquet.")


def source_for(vae: VAE, data: str) -> Dataset | Table | pa.Table:
    """Load data for a fitted estimator, as a table with the fitted column types if it was fitted to a table.

    The markers of missing cells are those of the fit unless the options declare others.
    """
    from lowerbound.cli.table_options import types_of
    from lowerbound.data import Csv, load, source

    told, schema = csv_options(), vae.schema_
    if schema is None:
        return load(data, csv=told)
    fitted = schema.csv or Csv()
    told = told if told.missing else Csv(told.separator, told.decimal, fitted.missing)
    return source(data, types_of(schema), told, fitted.separator)


def rows_of(source: Dataset | Table | pa.Table, part: str) -> Any:
    """Return the rows to use: one part of a named dataset, or all rows of a file (with any column names)."""
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
    """Whether the rows are certainly held out: only the test part of a named dataset is."""
    from lowerbound.data import Dataset

    return isinstance(source, Dataset) and part == "test"


def fitted(run: Path, encodes: bool = True) -> VAE:
    """Load the estimator saved in ``run``. ``encodes``: say how q(z|x) is found, if not by an encoder."""
    from lowerbound.estimators import VAE, load

    found = load(run)
    if not isinstance(found, VAE):
        raise FormatError(f"{run} holds a model that is not a VAE estimator; load it in Python with lowerbound.load.")
    if encodes and hasattr(found, "posterior_") and found.posterior_.needs_model:
        say(f"q(z|x) is {found.posterior_.how}; the model is not changed")
    return found


def tell(result: dict[str, Any], as_json: bool, words: str) -> None:
    """Print the result as words on stderr, and with ``as_json`` as JSON on stdout (null for values not finite)."""
    if as_json:
        click.echo(json.dumps(finite(result), allow_nan=False))
    say(words)


def finite(value: Any) -> Any:
    """Replace each number that is not finite by None."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | float | int | None) else str(value)  # a date in a table


def say(words: str, colour: str | None = None) -> None:
    words = "".join(c if c.isprintable() or c == "\n" else "?" for c in words)  # names may come from a file
    click.secho(words, err=True, fg=None if os.environ.get("NO_COLOR") else colour)


def in_words(error: OSError) -> OSError:
    """Turn an error of the system into a sentence; return any other error unchanged."""
    if error.errno is None:
        return error
    where = f"{error.filename}: " if error.filename else ""
    return OSError(f"{where}{error.strerror}; use another path, or fix the cause.")

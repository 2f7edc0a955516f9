import csv
import io
import re
import shutil
import subprocess
import unicodedata
from pathlib import Path

import pytest

from benchmark.report.cost import cost
from benchmark.report.table_formats import (
    Column,
    Mean,
    ReportTable,
    TableRow,
    csv_text,
    latex,
    markdown,
)
from benchmark.report.tables import score_tables
from benchmark.results.run import read_run
from tests.made_up_run import write_run

TABLE = ReportTable(
    "comparison",
    "50 % of it",
    (
        Column("method"),
        Column("dino", "DINO ↑", 3),
        Column("jobs"),
        Column("train_s", "train s", 1),
    ),
    (
        TableRow((r"a_b & c\d {x}~^#$%<>|", Mean(0.65512, 0.5739, 0.7361, best=True), 10, 25.84)),
        TableRow(("[x] --over", Mean(-0.0456), 2, None)),
        TableRow(("*y*, \"z\"\n'q'`", None, 0, 0.0)),
        TableRow(("DreamBooth (Imagen)", Mean(0.696), None, None), published=True),
    ),
)

LATEX = r"""% 50 \% of it
% \usepackage{booktabs,textcomp}
\begingroup\small\setlength{\tabcolsep}{3.5pt}%
\begin{tabular}{@{}lrrr@{}}
\toprule
method & DINO $\uparrow$ & jobs & train s \\
\midrule
a\_b \& c\textbackslash{}d \{x\}\textasciitilde{}\textasciicircum{}\#\$\%\textless{}\textgreater{}\textbar{} & \textbf{0.655} & 10 & 25.8 \\*[-2pt]
 & {\scriptsize [0.574, 0.736]} &  &  \\[1pt]
{[}x] -{}-over & $-$0.046 & 2 & -- \\
{*}y*, \texttt{\char34}z\texttt{\char34} \textquotesingle{}q\textquotesingle{}\textasciigrave{} & -- & 0 & 0.0 \\
\midrule
\multicolumn{4}{@{}l@{}}{\textit{Ruiz et al.\ (2023), other backbones: directions, not targets}} \\*
DreamBooth (Imagen) & 0.696 & -- & -- \\
\bottomrule
\end{tabular}%
\endgroup
"""  # noqa: E501

#: What a grouped table has between its \midrule and its \bottomrule.
GROUPED = r"""
\multicolumn{2}{@{}l@{}}{\textit{cat \& dog}} \\*
untuned & $-$0.500 \\*[-2pt]
 & {\scriptsize [$-$0.600, 0.100]} \\[1pt]
dreambooth & 0.700 \\
\addlinespace
\multicolumn{2}{@{}l@{}}{\textit{owl}} \\*
untuned & 0.100 \\
"""

CSV = """method,dino,dino_low,dino_high,jobs,train_s,source
a_b & c\\d {x}~^#$%<>|,0.655120,0.573900,0.736100,10,25.840000,here
[x] --over,-0.045600,,,2,,here
"*y*, ""z""\n'q'`",,,,0,0.000000,here
DreamBooth (Imagen),0.696000,,,,,paper
"""

MARKDOWN = r"""
| method | DINO ↑ | jobs | train s |
| a\_b \& c\\d \{x\}\~^\#\$%\<\>\| | **0.655 [0.574, 0.736]** | 10 | 25.8 |
| \[x\] --over | -0.046 | 2 | - |
| \*y\*, "z" 'q'\` | - | 0 | 0.0 |
| *paper: DreamBooth (Imagen)* | *0.696* | - | - |
"""


def test_latex():
    assert latex(TABLE) == LATEX


def test_csv():
    assert csv_text(TABLE) == CSV
    assert {len(row) for row in csv.reader(io.StringIO(CSV))} == {7}


def test_markdown():
    header, _, *rows = re.sub(" +", " ", markdown(TABLE)).splitlines()
    assert [header, *rows] == MARKDOWN.strip().splitlines()


def test_a_csv_of_our_own_rows_alone_names_no_source():
    table = ReportTable("cost", "Cost", TABLE.columns, TABLE.rows[:2])
    assert csv_text(table).splitlines()[0] == "method,dino,dino_low,dino_high,jobs,train_s"
    assert latex(table).count(r"\midrule") == 1


def test_a_latex_row_has_as_many_cells_as_there_are_columns():
    body = latex(TABLE).split(r"\midrule")[1].strip().splitlines()
    for row in body:
        assert len(re.findall(r"(?<!\\)&", row)) == 3
        assert re.search(r" \\\\(\*?\[-?\dpt\])?$", row)
        unescaped = re.sub(r"\\[&%$#_{}\\]", "", row)
        assert unescaped.count("{") == unescaped.count("}")
        assert not re.search(r"[#%~^<>|\"]", unescaped)


def test_rows_of_one_first_cell_stand_under_it():
    columns = (Column("subject"), Column("method"), Column("dino", "DINO ↑", 3))
    rows = (
        TableRow(("cat & dog", "untuned", Mean(-0.5, -0.6, 0.1))),
        TableRow(("cat & dog", "dreambooth", 0.7)),
        TableRow(("owl", "untuned", 0.1)),
    )
    text = latex(ReportTable("by-subject", "By subject", columns, rows))
    assert r"\begin{tabular}{@{}lr@{}}" in text
    assert "\nmethod & DINO $\\uparrow$ \\\\\n" in text
    assert text.partition(r"\midrule")[2].partition(r"\bottomrule")[0] == GROUPED
    with_all = csv_text(ReportTable("by-subject", "By subject", columns, rows)).splitlines()[0]
    assert with_all == "subject,method,dino,dino_low,dino_high"


def test_a_long_table_goes_over_pages():
    def table(rows):
        return latex(
            ReportTable(
                "t", "T", TABLE.columns[:1], tuple(TableRow((f"m{i}",)) for i in range(rows))
            )
        )

    assert "longtable" not in table(45)
    assert r"% \usepackage{booktabs,textcomp,longtable}" in table(46)
    assert table(46).count(r"\begin{longtable}") == table(46).count(r"\end{longtable}") == 1


def test_a_name_that_pdflatex_may_not_know_is_told_of():
    def table(name):
        return latex(ReportTable("t", "T", TABLE.columns[:1], (TableRow((name,)),)))

    assert "LuaLaTeX" not in table("cat")
    assert "LuaLaTeX" in table("猫")


#: What a name may do to LaTeX, each as it is to be read in the end.
HOSTILE = (
    "<script>alert(1)</script>",
    "\\ \\input{x} $x^2$ 5% & # _ {} ~ ^ | ~",
    "*a --- b,,c 'd' \"e\" ''f'' `g` ``h`` ?` !` << >>",
    "[2pt] é ü ñ ç ß",
)


def compiled(tables: dict[str, str], folder: Path, *, width: str) -> str:
    """What LaTeX's log says of the tables in one document, each on a page, and the PDF's text.

    The document has the packages that the tables ask for, and nothing else.
    """
    program = shutil.which("pdflatex")
    if program is None:
        pytest.skip("no pdflatex: `apt-get install texlive-latex-recommended` (CONTRIBUTING.md)")
    packages = {line for text in tables.values() for line in re.findall(r"(?m)^% (\\use.*)", text)}
    document = [r"\documentclass{article}", *sorted(packages), rf"\textwidth{width}"]
    document += [r"\begin{document}", *(rf"\noindent {t}\clearpage" for t in tables.values())]
    folder.mkdir()
    (folder / "all.tex").write_text("\n".join([*document, r"\end{document}"]), "utf-8")
    command = [program, "-halt-on-error", "-no-shell-escape", "-interaction=nonstopmode", "all.tex"]
    for _ in range(3):  # a longtable finds its widths by and by
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
        assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def test_latex_takes_the_tables_of_a_run_and_they_fit_a_page(tmp_path):
    methods = ("dreambooth", "dreambooth-no-prior", "dreambooth-wrong-class", "untuned")
    run = write_run(
        tmp_path / "run",
        lambda job, request, metric: 0.1 + 0.3 * (job.method == "untuned") + 0.01 * job.seed,
        methods=(*methods, "real-images", "textual-inversion"),
        subjects=[f"subject-{i}" for i in range(8)],
        seeds=(0, 1),
    )
    found = read_run(run)
    tables = {table.name: latex(table) for table in score_tables(found.under("toy-1"))}
    tables["cost"] = latex(cost(found))
    assert "longtable" in tables["by-subject"]
    # The two wide ones take a page of two columns, 487 pt in ICML's style; others article's 345 pt.
    wide = {name: tables.pop(name) for name in ("prior-preservation", "cost")}
    for chosen, width in ((tables, "345pt"), (wide, "487pt")):
        assert "Overfull" not in compiled(chosen, tmp_path / width, width=width)


def test_latex_shows_hostile_names_as_they_are(tmp_path):
    rows = tuple(TableRow((name, name, Mean(0.1, 0.0, 0.2, best=True))) for name in HOSTILE)
    columns = (Column("subject"), Column("method"), Column("x\\y_z", digits=3))
    grouped = ReportTable("t", "\\ % of {", columns, (*rows, *rows[-1:]))
    plain = ReportTable("u", "a", columns[1:], tuple(TableRow(row.cells[1:]) for row in rows))
    tables = {table.name: latex(table) for table in (grouped, plain)}
    compiled(tables, tmp_path / "hostile", width="600pt")
    program = shutil.which("pdftotext")
    if program is None:
        pytest.skip("no pdftotext to read the PDF: `apt-get install poppler-utils`")
    command = [program, "-layout", "-enc", "UTF-8", "all.pdf", "-"]
    done = subprocess.run(command, cwd=tmp_path / "hostile", capture_output=True, check=True)
    read = plainly(done.stdout.decode())
    for name in HOSTILE:
        assert read.count(plainly(name)) >= 3, name


def plainly(text: str) -> str:
    """Without spaces and underscores (which a PDF has as lines), and with one form of accents."""
    text = "".join(text.replace("˜", "~").replace("ˆ", "^").replace("_", "").split())
    return unicodedata.normalize("NFKD", text)

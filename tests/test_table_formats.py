import csv
import io
import re

from benchmark.table_formats import Column, Estimate, Row, Table, csv_text, latex, markdown

TABLE = Table(
    "comparison",
    "50 % of it",
    (
        Column("method"),
        Column("dino", "DINO ↑", 3),
        Column("jobs"),
        Column("train_s", "train s", 1),
    ),
    (
        Row((r"a_b & c\d {x}~^#$%<>|", Estimate(0.65512, 0.5739, 0.7361, best=True), 10, 25.84)),
        Row(("[x] --over", Estimate(-0.0456), 2, None)),
        Row(("*y*, \"z\"\n'q'`", None, 0, 0.0)),
        Row(("DreamBooth (Imagen)", Estimate(0.696), None, None), published=True),
    ),
)

LATEX = r"""% 50 \% of it
% \usepackage{booktabs,textcomp}
\begin{tabular}{lrrr}
\toprule
method & DINO $\uparrow$ & jobs & train s \\
\midrule
a\_b \& c\textbackslash{}d \{x\}\textasciitilde{}\textasciicircum{}\#\$\%\textless{}\textgreater{}\textbar{} & \textbf{0.655 [0.574, 0.736]} & 10 & 25.8 \\
{[}x] -{}-over & $-$0.046 & 2 & - \\
{*}y*, \textquotedbl{}z\textquotedbl{} \textquotesingle{}q\textquotesingle{}\textasciigrave{} & - & 0 & 0.0 \\
\midrule
\textit{paper: DreamBooth (Imagen)} & \textit{0.696} & - & - \\
\bottomrule
\end{tabular}
"""  # noqa: E501

CSV = """method,dino,dino_low,dino_high,jobs,train_s,source
a_b & c\\d {x}~^#$%<>|,0.655120,0.573900,0.736100,10,25.840000,here
[x] --over,-0.045600,,,2,,here
"*y*, ""z""\n'q'`",,,,0,0.000000,here
DreamBooth (Imagen),0.696000,,,,,paper
"""

MARKDOWN = r"""
| method | DINO ↑ | jobs | train s |
| a\_b \& c\\d \{x\}\~^\#$%\<\>\| | **0.655 [0.574, 0.736]** | 10 | 25.8 |
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
    table = Table("cost", "Cost", TABLE.columns, TABLE.rows[:2])
    assert csv_text(table).splitlines()[0] == "method,dino,dino_low,dino_high,jobs,train_s"
    assert latex(table).count(r"\midrule") == 1


def test_a_latex_row_has_as_many_cells_as_there_are_columns():
    body = latex(TABLE).split(r"\midrule")[1].strip().splitlines()
    for row in body:
        assert len(re.findall(r"(?<!\\)&", row)) == 3
        assert row.endswith(r" \\")
        unescaped = re.sub(r"\\[&%$#_{}\\]", "", row)
        assert unescaped.count("{") == unescaped.count("}")
        assert not re.search(r"[#%~^<>|\"]", unescaped)

"""Bad input: exit status 2, one line on stderr, nothing written, no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from contexture_jax.cli import main
from tests.cli.helpers import run
from tests.data.helpers import write

GOOD = "a,b,y\n1,2,u\n3,1,v\n2,5,u\n4,4,v\n"


def assert_refused(ran, tmp_path, *words):
    lines = ran.err.splitlines()
    assert ran.status == 2
    assert len(lines) == 1, ran.err
    assert lines[0].startswith("contexture: error: ")
    for word in words:
        assert word in lines[0]
    assert ran.out == ""
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("table.csv is empty", "column names")),
        ("\n \n", ("table.csv is empty",)),
        ("a,b\n", ("header but no rows",)),
        ("a,b,a\n1,2,3\n", ("columns 1 and 3", '"a"')),
        ("a,,b\n1,2,3\n", ("column 2", "no name")),
        (",b\n7,2\n9,3\n", ("column 1", "no name")),
        ("a,b\n1,2\n3,4,5\n", ("line 3", "3 cells", "2 columns")),
        ("a,b\n1,2\n3\n", ("line 3", "1 cell;", "2 columns")),
        ('a,b\n1,"2\n3,4\n', ("line 2", "malformed")),
        ("a,b\n1,2\n3,12..3\n5,6\n", ('"b"', '"12..3"', "line 3", "--categorical")),
        ("a,b\nabc,2\n1,3\n5,6\n", ('"a"', '"abc"', "line 2")),
        ("a,b\n1_0,2\n1,3\n5,6\n", ('"a"', '"1_0"', "line 2")),
        ('a,b\n"1,5",2\n"2,5",3\n1.7,6\n', ('"a"', '"1.7"', "line 4")),
        ('a,b\n"1,500",2\n"2,500",3\n', ('"1,500" on line 2', "--decimal")),
        ("a,b\n1,?\n2,\n3,NA\n", ('"b"', "every cell is missing")),
        ("a,b\n1,2\n2,inf\n3,4\n", ('"b"', "infinite", '"inf"', "line 3")),
        ("a,b\n1,2\n2,-1e999\n3,4\n", ('"b"', "infinite", '"-1e999"', "line 3")),
        ("a,b\n1,2\n1,2\n", ("no features are left", "constant columns: a, b")),
        ("1,2\n3,4\n5,6\n", ("first line", "numbers", "names")),
        ("a,b\n1,2\n", ("1 row", "at least 2")),
        ("1.5 2\n3 4\n5 6\n", ("2 numbers with spaces", "names", "commas")),
        ("a,b\n1," + "x" * 140000 + "\n", ("line 2", "more than 131,072 characters")),
        ("PK\x03\x04\x00\x00\n", ("binary", "UTF-8")),
        (
            "a\n" + "".join(f"text {i}\n" for i in range(1001)),
            ('"a"', "1001 different", "--drop"),
        ),
    ],
)
def test_malformed_csv_is_refused(tmp_path, capsys, text, words):
    path = write(tmp_path, text)
    assert_refused(run(capsys, path, "--out", tmp_path / "out"), tmp_path, *words)


def test_names_with_line_breaks_stay_on_the_line_of_the_error(tmp_path, capsys):
    path = write(tmp_path, 'a,"b\nc"\n1,2\n3,4\n')
    ran = run(capsys, path, "--target", "z", "--out", tmp_path / "out")
    assert_refused(ran, tmp_path, "a, b c")


def test_csv_in_another_encoding_is_refused(tmp_path, capsys):
    (tmp_path / "t.csv").write_bytes("a,b\n1,x\n2,é\n".encode("latin-1"))
    ran = run(capsys, tmp_path / "t.csv", "--out", tmp_path / "out")
    assert_refused(ran, tmp_path, "line 3", "not UTF-8", "0xe9")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--target", "z"], ('no column "z"', "a, b, y")),
        (["--target", "bb"], ('no column "bb"', 'did you mean "b"')),
        (["--target", ""], ("no column",)),
        (["--drop", "z"], ('no column "z"', "a, b, y")),
        (["--categorical", "z"], ('no column "z"',)),
        (["--drop", "y", "--target", "y"], ("--drop and --target",)),
        (["--rank", "4"], ("--rank 4", "3 singular values", "--rank 3 or less")),
        (["--rank", "0"], ("--rank", "at least 1", "got 0")),
        (["--rank", "-3"], ("--rank", "at least 1")),
        (["--rank", "two"], ("--rank", "integer", "'two'")),
        (["--num-neighbors", "5"], ("--num-neighbors 5", "4 rows")),
        (["--num-neighbors", "0"], ("--num-neighbors", "at least 1")),
        (["--gamma", "2"], ("--gamma", "--context rbf")),
        (["--lazy"], ("--lazy", "--context graph")),
        (["--context", "rbf", "--gamma", "0"], ("--gamma", "above 0", "'0'")),
        (["--context", "rbf", "--gamma", "-1"], ("--gamma", "above 0", "'-1'")),
        (["--context", "rbf", "--gamma", "nan"], ("--gamma", "above 0")),
        (["--context", "rbf", "--gamma", "inf"], ("--gamma", "above 0")),
        (["--context", "rbf", "--gamma", "1e30"], ("--gamma 1e+30", "auto")),
        (["--context", "labels"], ("labels", "--target")),
        (["--context", "labels", "--target", "a"], ("classes", '"a"', "numbers")),
        (
            ["--context", "labels", "--target", "y", "--rank", "2"],
            ("--rank 2", "1 singular value "),
        ),
        (
            ["--context", "teacher", "--drop", "y", "--rank", "3"],
            ("2 singular values",),
        ),
        (["--context", "joint"], ('column "y"', "texts")),
        (["--context", "joint", "--categorical", "y"], ("--categorical",)),
        (["--context", "graph", "--drop", "y"], ("square", "4 rows and 2 columns")),
        (["--context", "cnn"], ("--context", "'knn'")),
        (["--tol", "0"], ("--tol", "above 0")),
        (["--tol", "-0.001"], ("--tol", "above 0")),
        (["--tol", "1"], ("--tol", "below 1")),
        (["--max-passes", "0"], ("--max-passes", "at least 1")),
        (["--seed", "-1"], ("--seed", "between 0 and")),
        (["--dtype", "float16"], ("--dtype", "'float16'")),
        (["--method", "lanczos"], ("--method", "'lanczos'")),
        (["--ranks", "3"], ("--ranks",)),
        (["--rank"], ("--rank", "expected one argument")),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, capsys, options, words):
    path = write(tmp_path, GOOD)
    ran = run(capsys, path, *options, "--out", tmp_path / "out")
    assert_refused(ran, tmp_path, *words)


@pytest.mark.parametrize("cell", ["-2", "", "nan", "-inf"])
def test_bad_counts_are_refused(tmp_path, capsys, cell):
    path = write(tmp_path, f"a,b\n1,2\n{cell},4\n")
    ran = run(capsys, path, "--context", "joint", "--out", tmp_path / "out")
    assert_refused(ran, tmp_path, '"a"', "line 3")


def test_a_negative_weight_of_a_graph_is_no_count(tmp_path, capsys):
    path = write(tmp_path, "a,b\n0,-1\n-1,0\n")
    ran = run(capsys, path, "--context", "graph", "--out", tmp_path / "out")
    assert_refused(ran, tmp_path, '"a"', "-1 on line 3", "weights of a graph must be 0")
    assert "count" not in ran.err


def test_a_target_beside_the_columns_may_not_be_dropped(tmp_path, capsys):
    options = ("--drop", "target", "--target", "target", "--out", tmp_path / "out")
    assert_refused(run(capsys, "wine", *options), tmp_path, "--drop and --target both")


def test_a_table_without_counts_is_refused(tmp_path, capsys):
    path = write(tmp_path, "a,b\n0,0\n0,0\n")
    ran = run(capsys, path, "--context", "joint", "--out", tmp_path / "out")
    assert_refused(ran, tmp_path, "all counts", "are 0")


def test_an_asymmetric_graph_is_refused(tmp_path, capsys):
    np.save(tmp_path / "w.npy", [[0, 1, 2], [1, 0, 0], [3, 0, 0]])
    options = ("--context", "graph", "--out", tmp_path / "out")
    ran = run(capsys, tmp_path / "w.npy", *options)
    assert_refused(ran, tmp_path, "symmetric", "2 at [0, 2]", "3 at [2, 0]")


def test_a_graph_with_vertices_without_a_target_is_refused(tmp_path, capsys):
    path = write(tmp_path, "a,b,y\n0,1,u\n1,0,?\n1,0,v\n")
    options = ("--context", "graph", "--target", "y", "--out", tmp_path / "out")
    assert_refused(run(capsys, path, *options), tmp_path, '"y"', "missing in 1 row")


@pytest.mark.parametrize("column", ["u\nu\nu", "3\n3\n3", "?\n?\n?"])
def test_a_target_that_does_not_vary_is_refused(tmp_path, capsys, column):
    cells = column.split("\n")
    path = write(tmp_path, "a,y\n" + "".join(f"{i},{c}\n" for i, c in enumerate(cells)))
    ran = run(capsys, path, "--target", "y", "--out", tmp_path / "out")
    assert_refused(ran, tmp_path, '"y"')


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.array([[1, "a"], [2, None]], dtype=object), ("Python objects",)),
        (np.array([[1.0, 2.0], [np.nan, 3.0]]), ("nan at [1, 0]", "finite")),
        (np.array([[1.0, 2.0], [4.0, -np.inf]]), ("-inf at [1, 1]", "finite")),
        (np.arange(5.0), ("shape (5,)", "(rows, columns)")),
        (np.zeros((2, 3, 4)), ("shape (2, 3, 4)", "(rows, columns)")),
        (np.zeros((0, 3)), ("shape (0, 3)",)),
        (np.array([["1", "2"], ["3", "4"]]), ("dtype <U1", "real numbers")),
        (np.array([[1j, 2.0], [3.0, 4.0]]), ("complex128", "real numbers")),
    ],
)
def test_bad_arrays_are_refused(tmp_path, capsys, array, words):
    for name, write_array in (("x.npy", np.save), ("x.npz", np.savez)):
        if name == "x.npy":
            write_array(tmp_path / name, array, allow_pickle=True)
        else:
            np.savez(tmp_path / name, allow_pickle=True, x=array)
        ran = run(capsys, tmp_path / name, "--out", tmp_path / "out")
        assert_refused(ran, tmp_path, *words)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"a": np.eye(3), "b": np.eye(3)}, ("2 2-D arrays", "none called x")),
        ({"a": np.arange(3)}, ("0 2-D arrays",)),
        ({"x": np.eye(3), "y": np.arange(4)}, ('"y"', "(4,)", "expected (3,)")),
        ({"x": np.eye(3), "z": np.arange(3)}, ("no target", "found: z")),
        ({"x": np.eye(3), "y": np.arange(3) + 1j}, ("complex128",)),
        ({"x": np.eye(3), "y": np.array([{}, 1, 2])}, ('"y"', "Python objects")),
    ],
)
def test_npz_without_what_is_needed_is_refused(tmp_path, capsys, arrays, words):
    np.savez(tmp_path / "d.npz", allow_pickle=True, **arrays)
    ran = run(capsys, tmp_path / "d.npz", "--target", "y", "--out", tmp_path / "out")
    assert_refused(ran, tmp_path, *words)


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
@pytest.mark.parametrize("content", [b"", b"not an array", b"\x80\x04N.", b"\x93NUMPY"])
def test_damaged_arrays_are_refused(tmp_path, capsys, name, content):
    (tmp_path / name).write_bytes(content)
    ran = run(capsys, tmp_path / name, "--out", tmp_path / "out")
    assert_refused(ran, tmp_path, f"cannot read {name}")


def test_truncated_archives_are_refused(tmp_path, capsys):
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).normal(size=(50, 4)))
    whole = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(whole[: len(whole) // 2])
    ran = run(capsys, tmp_path / "x.npz", "--out", tmp_path / "out")
    assert_refused(ran, tmp_path, "cannot read x.npz")


def test_data_that_is_no_file_is_refused(tmp_path, capsys):
    (tmp_path / "folder.csv").mkdir()
    write(tmp_path, "a\n1\n", "table.xlsx")
    write(tmp_path, "a\n1\n", "table.parquet")
    for data, words in (
        ("iris", ("no such file", '"iris"', "wine")),
        (tmp_path / "none.csv", ("no such file", ".csv")),
        (tmp_path / "folder.csv", ("holds no shards; expected",)),
        (tmp_path / "table.xlsx", ("cannot tell what", ".npz")),
        (tmp_path / "table.parquet", ("cannot read table.parquet as Parquet",)),
        ("", ("no such file",)),
        ("a\nb", ("no such file", '"a b"')),
    ):
        ran = run(capsys, data, "--out", tmp_path / "out")
        assert_refused(ran, tmp_path, *words)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no /proc here")
def test_a_file_system_that_refuses_is_found_before_any_work(tmp_path, capsys):
    # Before the data are even looked for.
    ran = run(capsys, tmp_path / "none.csv", "--out", "/proc/x")
    assert_refused(ran, tmp_path, '--out "/proc/x" cannot be written')


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_out_without_permission_is_refused(tmp_path, capsys):
    path = write(tmp_path, GOOD)
    (tmp_path / "locked").mkdir(mode=0o500)
    ran = run(capsys, path, "--out", tmp_path / "locked" / "out")
    assert_refused(ran, tmp_path, "no permission")


def test_no_command_and_unknown_commands_are_refused(capsys):
    for arguments, word in (([], "COMMAND"), (["paint"], "'paint'")):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("contexture: error: ")
        assert error.count("\n") == 1
        assert word in error


def test_help_and_bad_input_do_not_load_jax(tmp_path):
    path = write(tmp_path, "a,b\n1\n")
    good = write(tmp_path, "a,b,y\n1,u,x\n,v,\n3,w,y\n4,,y\n", "good.csv")
    script = (
        "import sys; from contexture_jax.cli import main\n"
        "from contexture_jax.data._features import load_features\n"
        f"assert load_features({str(good)!r}, target='y').features.shape == (3, 4)\n"
        f"assert main(['spectrum', {str(path)!r}]) == 2\n"
        "try:\n    main(['spectrum', '--help'])\nexcept SystemExit as e:\n"
        "    assert e.code == 0\n"
        "slow = {'jax', 'matplotlib', 'pandas', 'sklearn', 'scipy', 'rich'}\n"
        "assert not slow & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--num-neighbors" in done.stdout

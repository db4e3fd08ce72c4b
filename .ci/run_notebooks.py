"""Run each text notebook of a folder to its end and save it with its outputs."""

import argparse
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient


def main() -> None:
    """Run the notebooks that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="folder with text notebooks, *.py")
    parser.add_argument("target", type=Path, help="folder for the executed *.ipynb")
    args = parser.parse_args()
    # The header tells a notebook from a script that lies beside it.
    paths = [
        path
        for path in sorted(args.source.glob("*.py"))
        if "jupytext:" in path.read_text(encoding="utf-8")[:500]
    ]
    if not paths:
        raise SystemExit(f"no notebooks in {args.source}")
    args.target.mkdir(parents=True, exist_ok=True)
    for path in paths:
        notebook = jupytext.read(path)
        resources = {"metadata": {"path": str(args.source)}}
        NotebookClient(
            notebook, timeout=300, kernel_name="python3", resources=resources
        ).execute()
        nbformat.write(notebook, args.target / f"{path.stem}.ipynb")
        print(f"{path}: ran")


if __name__ == "__main__":
    main()

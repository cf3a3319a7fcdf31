"""Looks into the built wheel and sdist: every file that belongs there, and nothing else; and how a
registry shows the README.

package_contents.py FOLDER
"""

from __future__ import annotations

import email
import pathlib
import re
import subprocess
import sys
import tarfile
import zipfile

import readme_renderer.markdown

SDK = pathlib.Path(__file__).resolve().parent.parent
# Named, so that they are missed here even if they are gone from git.
REQUIRED = {
    "arqon/__init__.py",
    "arqon/__main__.py",
    "arqon/_codes.py",
    "arqon/_leaves.py",
    "arqon/_proto/envelope_pb2.py",
    "arqon/_proto/envelope_pb2.pyi",
    "arqon/errors.py",
    "arqon/py.typed",
    "arqon/sync.py",
    "arqon/testing/__init__.py",
}
SDIST = {"LICENSE", "PKG-INFO", "README.md", "pyproject.toml"}


def committed() -> set[str]:
    """The package's files, as git knows them."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "src/arqon"],
        cwd=SDK,
        check=True,
        capture_output=True,
        encoding="utf-8",
    ).stdout
    return {name.removeprefix("src/") for name in listed.split("\0") if name}


def differences(where: str, have: set[str], want: set[str]) -> list[str]:
    """What is too much and what is missing."""
    return [
        *(f"{where}: {name} does not belong there" for name in sorted(have - want)),
        *(f"{where}: {name} is missing" for name in sorted(want - have)),
    ]


def name_of(need: str) -> str:
    """The package that a Requires-Dist names."""
    return re.split(r"[<>=;! ]", need, maxsplit=1)[0]


def shown(readme: str) -> list[str]:
    """What is wrong with the README as a registry shows it: a page without the files beside it."""
    html = readme_renderer.markdown.render(readme)
    if html is None:
        return ["README.md: cannot be rendered"]
    ids = set(re.findall(r'id="([^"]+)"', html))
    wrong = []
    for target in re.findall(r'href="([^"]+)"', html):
        if target.startswith("#"):
            if target[1:] not in ids:
                wrong.append(f"README.md: {target} leads nowhere")
        elif not target.startswith("https://"):
            wrong.append(f"README.md: {target} is no address that a registry can show")
    if "<table>" not in html or 'lang="python"' not in html:
        wrong.append("README.md: tables or code are not shown as such")
    return wrong


def main() -> None:
    """Compares, and says what is wrong."""
    folder = pathlib.Path(sys.argv[1])
    (wheel,) = folder.glob("*.whl")
    (sdist,) = folder.glob("*.tar.gz")
    package = committed()
    wrong = differences("git", package & REQUIRED, REQUIRED)

    stem = "-".join(wheel.name.split("-")[:2])
    info = f"{stem}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        added = {f"{info}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "licenses/LICENSE")}
        wrong += differences(wheel.name, set(archive.namelist()), package | added)
        metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
        tags = email.message_from_bytes(archive.read(f"{info}/WHEEL")).get_all("Tag")
        for name in ("_proto/envelope_pb2.py", "_codes.py"):
            if archive.read(f"arqon/{name}") != (SDK / "src/arqon" / name).read_bytes():
                wrong.append(f"{wheel.name}: {name} is not the committed one")
    if tags != ["py3-none-any"]:
        wrong.append(f"{wheel.name}: is not pure Python: {tags}")
    needs = sorted(metadata.get_all("Requires-Dist") or [])
    always = [need for need in needs if "extra ==" not in need]
    extra = [need for need in needs if need not in always]
    if [name_of(need) for need in always] != ["protobuf", "websockets"]:
        wrong.append(f"{wheel.name}: needs {always}")
    if [name_of(need) for need in extra] != ["opentelemetry-api"]:
        wrong.append(f"{wheel.name}: takes {extra}")
    if metadata["Requires-Python"] != ">=3.10" or metadata["License-Expression"] != "Apache-2.0":
        wrong.append(f"{wheel.name}: Requires-Python or License-Expression is wrong")

    readme = metadata.get_payload()
    assert isinstance(readme, str)
    if metadata["Description-Content-Type"] != "text/markdown":
        wrong.append(f"{wheel.name}: the README is not told to be Markdown")
    wrong += shown(readme)

    with tarfile.open(sdist) as tar:
        names = {
            member.name.removeprefix(f"{stem}/") for member in tar.getmembers() if member.isfile()
        }
    # Hatchling always takes the ignore file that it obeyed along.
    names.discard(".gitignore")
    wrong += differences(sdist.name, names, {f"src/{name}" for name in package} | SDIST)
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"{wheel.name}: {len(package)} files; {sdist.name} has the same")


if __name__ == "__main__":
    main()

"""Files of captions as data sets publish them: recognised by what they hold, and brought to this data set's keys.

Such a file names videos, not samples, and as a rule more of them than a data set has; so names are searched for, and
those that fit no sample are counted.
"""

from __future__ import annotations

import csv
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.annotations import reading
from shards.errors import UserError
from shards.keys import make_key, without_extension

Change = dict[str, Any]

FORMS = (
    "MSR-VTT's JSON (videos and sentences); a JSON object video → caption, list of captions, or object with caption "
    "(CPD) or sentences (ActivityNet Captions); a JSON list of objects with id, label, template (Something-Something) "
    "or with a name (video_id, video, filename, id) and a caption; CSV with a header line that has video_id and "
    "sentence (MSR-VTT 1k-A), separated by commas, semicolons or tabs; .txt with lines video<tab>caption"
)

_NAMES = ("video_id", "video", "filename", "id")
_TEXTS = ("caption", "captions", "sentence", "sentences")
_BRACKETS = re.compile(r"\[([^\[\]]*)\]")


@dataclass(frozen=True, kw_only=True)
class Listed:
    """What a file says.

    Attributes:
        form: which of the known forms it has, in words.
        changes: name of a video → new values, as those of `shards.annotations.read_changes`.
    """

    form: str
    changes: Mapping[str, Change]


def read_caption_file(file: Path) -> Listed | None:
    """The captions of a file in one of the forms above; None where it is not one, but perhaps a file of our own.

    Raises:
        UserError: it is JSON of none of the forms, or a value in it is no text.
        StorageError: the file cannot be read.
    """
    kind = file.suffix.lower()
    with reading(file):
        if kind == ".json":
            return _from_json(file)
        if kind in (".csv", ".tsv"):
            return _from_table(file)
        return _from_lines(file) if kind == ".txt" else None


def _from_json(file: Path) -> Listed | None:
    try:
        value = json.loads(file.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError:
        return None  # several lines of JSON, perhaps
    if isinstance(value, dict) and "key" not in value:
        if isinstance(value.get("sentences"), list):
            return Listed(form="MSR-VTT captions", changes=_msrvtt(value, file))
        return Listed(form="captions by video", changes={n: _of_value(n, v, file) for n, v in value.items()})
    if isinstance(value, list) and value and all(isinstance(it, dict) for it in value):
        if all("id" in it and not set(it) & {*_TEXTS, *_NAMES} - {"id"} for it in value):
            return Listed(form="Something-Something labels", changes=_something(value, file))
        return Listed(form="list of captions", changes=_gathered(_pairs(value, file)))
    if isinstance(value, dict):
        return None
    raise UserError(f"{file} is JSON of no known form; known are: {FORMS}")


def _msrvtt(value: Mapping[str, Any], file: Path) -> dict[str, Change]:
    changes = _gathered(_pairs(value["sentences"], file))
    for video in value.get("videos", ()):
        if isinstance(video, dict) and isinstance(video.get("split"), str) and video["split"]:
            changes.setdefault(_name(video, file), {})["splits"] = (video["split"],)
    return changes


def _of_value(name: str, value: Any, file: Path) -> Change:
    """Of the value that belongs to a video's name."""
    if not isinstance(value, dict):
        return {"captions": tuple(_texts(value, file, name))}
    found = _text_of(value)
    if found is None:
        has = ", ".join(map(str, value))[:80] or "nothing"
        raise UserError(f"{file}: {name!r} has no caption, but {has}; known are: {FORMS}")
    change: Change = {"captions": tuple(_texts(found, file, name))}
    if isinstance(value.get("subset"), str) and value["subset"]:
        change["splits"] = (value["subset"],)
    return change


def _something(value: list[dict[str, Any]], file: Path) -> dict[str, Change]:
    """Captions are the labels with objects in words; the class is the template without brackets."""
    changes: dict[str, Change] = {}
    for it in value:
        if "label" not in it:
            raise UserError(f"{file}: {it.get('id')!r} has no label: this is the list of a test set, without captions")
        name = str(it["id"])
        changes[name] = {"captions": tuple(_texts(it["label"], file, name))}
        if isinstance(it.get("template"), str) and it["template"]:
            changes[name]["label"] = _BRACKETS.sub(r"\1", it["template"])
    return changes


def _from_table(file: Path) -> Listed | None:
    with file.open(encoding="utf-8-sig", newline="") as opened:
        head = opened.readline()
        for delimiter in (",", ";", "\t"):
            header = [cell.strip() for cell in next(csv.reader([head], delimiter=delimiter), [])]
            name = next((n for n in _NAMES[:3] if n in header), None)
            text = next((t for t in _TEXTS if t in header), None)
            if name and text:
                break
        else:
            return None
        pairs = []
        reader = csv.reader(opened, delimiter=delimiter)
        for row in reader:
            if row and len(row) != len(header):
                line = reader.line_num + 1
                raise UserError(f"{file}:{line}: the line has {len(row)} cells, the header line {len(header)}")
            if row:
                pairs.append((row[header.index(name)].strip(), row[header.index(text)]))
    return Listed(form=f"table of {name} and {text}", changes=_gathered(pairs))


def _from_lines(file: Path) -> Listed:
    pairs = []
    with file.open(encoding="utf-8-sig") as opened:
        for number, line in enumerate(opened, 1):
            if not line.strip():
                continue
            name, tab, rest = line.rstrip("\n").partition("\t")
            if not tab or not name.strip():
                raise UserError(f"{file}:{number}: {line.strip()[:60]!r} is not video<tab>caption; known are: {FORMS}")
            # Further columns (the title before it was cleaned, say) are not captions.
            pairs.append((name.strip(), rest.partition("\t")[0]))
    return Listed(form="lines of video and caption", changes=_gathered(pairs))


def _pairs(entries: Iterable[Any], file: Path) -> Iterator[tuple[str, str]]:
    """(name, caption) of objects that have both; several captions give several pairs."""
    for entry in entries:
        name = _name(entry, file)
        for text in _texts(_text_of(entry), file, name):
            yield name, text


def _gathered(pairs: Iterable[tuple[str, str]]) -> dict[str, Change]:
    """Name → all captions; blank ones are left out."""
    found: dict[str, list[str]] = defaultdict(list)
    for name, text in pairs:
        found[name] += [text] if text.strip() else []
    return {name: {"captions": tuple(texts)} for name, texts in found.items()}


def _name(fields: Any, file: Path) -> str:
    found: Any = next((fields[n] for n in _NAMES if n in fields), None) if isinstance(fields, dict) else None
    if isinstance(found, bool) or not isinstance(found, (str, int)) or found == "":
        raise UserError(f"{file}: {str(fields)[:80]} names no video; known are: {FORMS}")
    return str(found)


def _text_of(fields: Any) -> Any:
    return next((fields[t] for t in _TEXTS if t in fields), None)


def _texts(value: Any, file: Path, name: str) -> Iterator[str]:
    """A caption, or a list of them; blank ones are left out."""
    for text in value if isinstance(value, list) else [value]:
        if not isinstance(text, str):
            raise UserError(f"{file}: the caption of {name!r} is no text, but {str(text)[:60]!r}; known are: {FORMS}")
        if text.strip():
            yield text


def find_keys(names: Iterable[str], paths: Mapping[str, str], *, template: str, where: str) -> dict[str, str]:
    """Name → key, for those that fit a sample.

    A name fits the sample whose key it is, or whose key or path it leads to as a path; else the only sample whose key
    ends in it (after `--`), or whose file has that name.

    Args:
        paths: key → path of the video, as it was packed; empty where that is not known.
        template: what a key says of a name, `{}`, such as `trimmed_resize_{}`.

    Raises:
        UserError: the template has no `{}`, or a name fits several samples.
    """
    if template.count("{}") != 1:
        raise UserError(f"--key {template!r} says nothing of the name; write {{}} once, such as trimmed_resize_{{}}")
    whole, ends = dict[str, str](), defaultdict[str, set[str]](set)
    for its, path in paths.items():
        if path:
            whole[path] = whole[without_extension(path)] = its
            ends[without_extension(path.rpartition("/")[2])].add(its)
        ends[its.rpartition("--")[2]].add(its)
    whole |= {key: key for key in paths}
    found = {}
    for name in names:
        wanted = template.replace("{}", name)
        last = without_extension(wanted.rpartition("/")[2])
        forms = (wanted, without_extension(wanted), make_key(wanted), last, make_key(last))
        key = next((whole[form] for form in forms if form in whole), None)
        if key is None:
            fitting = sorted(next((ends[form] for form in forms if form in ends), ()))
            if len(fitting) > 1:
                raise UserError(
                    f"{where}: {name!r} fits {len(fitting)} samples: {', '.join(fitting[:3])}; say which with --key, "
                    "such as --key 'train--{}', or by paths such as train/NAME.mp4 in the file"
                )
            key = fitting[0] if fitting else None
        if key is not None:
            found[name] = key
    return found

"""Names and colours of a segmentation's label numbers, in the files that viewers read.

The colours are the report's: those of Okabe and Ito, told apart with any kind of colour vision,
then lighter and darker ones.
"""

from __future__ import annotations

from bt.data.labels import LabelTable

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")


def structure_colours(count: int) -> list[str]:
    """One each, neighbours in the list far apart."""
    return [_shade(OKABE_ITO[i % len(OKABE_ITO)], i // len(OKABE_ITO)) for i in range(count)]


def freesurfer_table(labels: LabelTable) -> str:
    """A FreeSurfer colour table: number, name, red, green, blue, 0. For freeview, FSLeyes, ..."""
    lines = ["# No. Label Name: R G B A", "0 Unknown 0 0 0 0"]
    for number, name, colour in _rows(labels):
        red, green, blue = _channels(colour)
        lines.append(f"{number} {'-'.join(name.split())} {red} {green} {blue} 0")
    return "\n".join(lines) + "\n"


def bids_table(labels: LabelTable) -> str:
    """A BIDS dseg.tsv: index, name, color."""
    lines = ["index\tname\tcolor", *("\t".join(map(str, row)) for row in _rows(labels))]
    return "\n".join(lines) + "\n"


def _rows(labels: LabelTable) -> list[tuple[int, str, str]]:
    """Number, name and colour of each structure."""
    numbers = [int(number) for number in labels.numbers[1:]]
    colours = structure_colours(labels.classes - 1)
    return list(zip(numbers, labels.structures[1:], colours, strict=True))


def _shade(colour: str, step: int) -> str:
    if step == 0:
        return colour
    towards = 255 if step % 2 else 0
    share = min(0.75, 0.5 + 0.1 * (step // 3))
    mixed = (round((1 - share) * own + share * towards) for own in _channels(colour))
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def _channels(colour: str) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of #rrggbb."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)

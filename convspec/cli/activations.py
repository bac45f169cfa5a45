"""`convspec activations`: draw every channel of a saved model's layers for a picture (listing 5.31)."""

import argparse

from convspec import BadInput
from convspec.cli.arguments import add_drawing, add_picture, find_output

HELP = "show every channel of a saved model's layers for a picture"
DESCRIPTION = "Write the maps of LAYERs (default: all that have some) as one picture, and say how many are dead."
WIDTH, TITLE = 960, 24  # pixels: of the picture, and of the line above each layer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_picture(parser, "activations")
    parser.add_argument("layers", metavar="LAYER", nargs="*", help="names of layers, those in a nested base, too")
    add_drawing(parser)


def run(options: argparse.Namespace) -> int:
    """Write the picture and print each layer's share of dead channels; return 0."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    from convspec.cli import pictures
    from convspec.visualization.maps import activations, channel_tiles, dead_share

    model, _, _, inputs = pictures.load(options)
    maps = {name: each for name, each in activations(model, inputs).items() if each.ndim == 3}
    if unknown := [name for name in options.layers if name not in maps]:
        raise BadInput(f"{model.name} has no layer {unknown[0]!r} with maps; choose from {', '.join(maps)}")
    if not maps:
        raise BadInput(f"{model.name} has no layers with maps")
    dead = dead_share(maps)
    titles, strips = [], []
    for name in dict.fromkeys(options.layers or maps):
        height, width, depth = maps[name].shape
        titles.append(f"{name}: {depth} maps of {height} x {width}, {dead[name]:.0%} of them dead")
        tiles = Image.fromarray(channel_tiles(maps[name]))
        tiles = tiles.resize((WIDTH, max(round(tiles.height * WIDTH / tiles.width), 1)), Image.Resampling.NEAREST)
        strip = Image.new("L", (WIDTH, TITLE + tiles.height), 255)
        ImageDraw.Draw(strip).text((4, 4), titles[-1], fill=0, font=ImageFont.load_default(TITLE - 10))
        strip.paste(tiles, (0, TITLE))
        strips.append(np.asarray(strip))
    pictures.write(np.concatenate(strips), find_output(options))
    print(*titles, f"{find_output(options)}: every channel, 16 a row, dead ones black", sep="\n")
    return 0

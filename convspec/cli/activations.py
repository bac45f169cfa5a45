"""`convspec activations`: draw channels of a model's layers for a picture (listings 5.29 to 5.31)."""

import argparse

from convspec import BadInput
from convspec.cli.arguments import add_drawing, add_picture, find_output

HELP = "show the channels of a model's layers for a picture, all or one"
DESCRIPTION = "Draw the maps of each LAYER (default: all layers with maps) in one picture, and say how many are dead."
WIDTH, TITLE = 960, 24  # pixels: of the picture, and of the line above each layer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_picture(parser, "activations")
    parser.add_argument("layers", metavar="LAYER", nargs="*", help="names of layers, those in a nested base, too")
    parser.add_argument(
        "--channel", metavar="N", type=int, help="draw this channel alone; the first is 0 (default: all)"
    )
    add_drawing(parser)


def run(options: argparse.Namespace) -> int:
    """Write the picture and print each layer's share of dead channels, or one channel's range; return 0."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    from convspec.cli import pictures
    from convspec.visualization.maps import activations, channel_tiles, dead_share, viridis

    (model, *_), _, inputs = pictures.load(options, include_top=False)
    maps = {name: each for name, each in activations(model, inputs).items() if each.ndim == 3}
    if not maps:
        raise BadInput(f"{model.name} has no layers with maps")
    if unknown := [name for name in options.layers if name not in maps]:
        raise BadInput(f"{model.name} has no layer {unknown[0]!r} with maps; choose from {', '.join(maps)}")
    titles, strips, number = [], [], options.channel
    for name in dict.fromkeys(options.layers or maps):
        height, width, depth = maps[name].shape
        if number is None:
            drawn, dead = channel_tiles(maps[name]), dead_share({name: maps[name]})[name]
            titles.append(f"{name}: {depth} maps of {height} x {width}, {dead:.0%} of them dead")
        elif not 0 <= number < depth:
            raise BadInput(f"channel must be from 0 to {depth - 1}, which {name} has, got {number}: name other layers")
        else:
            drawn, channel = viridis(maps[name][..., number]), maps[name][..., number]
            titles.append(f"{name}, channel {number}: {height} x {width}, {channel.min():.3g} to {channel.max():.3g}")
            if not channel.any():
                titles[-1] += ", dead"
                drawn[:] = 0
        tiles = Image.fromarray(drawn)
        tiles = tiles.resize((WIDTH, max(round(tiles.height * WIDTH / tiles.width), 1)), Image.Resampling.NEAREST)
        strip = Image.new("RGB", (WIDTH, TITLE + tiles.height), "white")
        ImageDraw.Draw(strip).text((4, 4), titles[-1], fill="black", font=ImageFont.load_default(TITLE - 10))
        strip.paste(tiles, (0, TITLE))
        strips.append(np.asarray(strip))
    pictures.write(np.concatenate(strips), find_output(options))
    shown = "every channel, 16 a row, dead ones black" if number is None else f"channel {number} alone"
    print(*titles, f"{find_output(options)}: {shown}", sep="\n")
    return 0

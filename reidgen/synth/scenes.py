"""The places of the built-in benchmark: what stands behind people, and what stands in front of them.

Each maker fills one kind of thing; a domain names the things that its cameras see, a camera's dice place them.
Units and determinism: see drawing.py.
"""

from collections.abc import Callable, Mapping, Sequence

from reidgen.synth.drawing import BLACK, Board, Colour, Dice, scaled
from reidgen.synth.figures import Pose, draw_person
from reidgen.synth.people import UPPER_COLOURS, population


def draw_scene(board: Board, dice: Dice, *, wall: Colour, floor: Colour, horizon: float, things: Sequence[str]) -> None:
    """Fill the board with a place: wall, floor, then `things` (names of SCENERY) around the horizon, a share of its
    height.
    """
    edge = board.height * horizon
    board.box(0, 0, 255, edge, wall)
    board.box(0, edge, 255, board.height, floor)
    for _ in range(26):  # stains, joints and reflections: no wall and no floor is plain
        x, y = dice.between(-20, 256), dice.between(0, board.height)
        base = wall if y < edge else floor
        board.box(x, y, x + dice.between(8, 70), y + dice.between(2, 26), dice.tint(base, 34), 150)
    for name in things:
        SCENERY[name](board, dice, edge)


def _windows(board: Board, dice: Dice, edge: float) -> None:
    wide, tall, gap = dice.between(22, 44), dice.between(28, 56), dice.between(8, 26)
    glass, frame = dice.tint((120, 140, 160), 50), dice.tint((150, 148, 140), 60)
    y = dice.between(-20, 10)
    while y + tall < edge - 10:
        x = dice.between(-30, 0)
        while x < 256:
            board.box(x - 2, y - 2, x + wide + 2, y + tall + 2, frame)
            board.box(x, y, x + wide, y + tall, dice.tint(glass, 28))
            board.box(x + wide / 2 - 1, y, x + wide / 2 + 1, y + tall, frame)
            x += wide + gap
        y += tall + gap


def _paving(board: Board, dice: Dice, edge: float) -> None:
    colour, step, y = dice.tint((70, 68, 66), 30), dice.between(9, 16), edge
    slant = dice.between(-30, 30)
    while y < board.height:
        board.box(0, y, 255, y + 1, colour, 150)
        y += step
        step *= 1.22
    for i in range(-1, 11):
        board.limb((i * 32 - slant * 0.2, edge), (i * 46 - 60 + slant, board.height), 1, 3, colour, 130)


def _tiles(board: Board, dice: Dice, edge: float) -> None:
    colour, step = dice.tint((210, 208, 200), 40), dice.between(10, 18)
    for i in range(int(edge / step)):
        board.box(0, i * step, 255, i * step + 1, colour, 140)
    for i in range(int(256 / step)):
        board.box(i * step, 0, i * step + 1, edge, colour, 140)


def _shelves(board: Board, dice: Dice, edge: float) -> None:
    x, y = dice.between(-60, 60), dice.between(10, 40)
    while y < edge - 8:
        left = x
        while left < x + 200:
            wide, tall = dice.between(5, 16), dice.between(9, 20)
            board.box(left, y + 20 - tall, left + wide, y + 20, dice.tint((128, 110, 100), 110))
            left += wide + dice.between(0, 3)
        board.box(x - 4, y + 20, x + 204, y + 23, (80, 76, 72))
        y += 26


def _posters(board: Board, dice: Dice, edge: float) -> None:
    for _ in range(3):
        x, y = dice.between(-10, 240), dice.between(0, edge * 0.6)
        wide, tall = dice.between(18, 56), dice.between(24, 60)
        colour = dice.tint((150, 140, 130), 110)
        board.box(x, y, x + wide, y + tall, colour)
        for i in range(4):
            inner = dice.tint((140, 130, 130), 110)
            board.box(
                x + dice.between(0, wide / 2), y + tall * i / 5 + 3, x + wide - 3, y + tall * (i + 0.6) / 5 + 3, inner
            )


def _cars(board: Board, dice: Dice, edge: float) -> None:
    for _ in range(2):
        x, y, wide = dice.between(-60, 230), edge + dice.between(-4, 26), dice.between(90, 150)
        colour = dice.tint(
            dice.choice(((30, 30, 34), (190, 192, 196), (120, 24, 30), (60, 80, 120), (230, 230, 228))), 18
        )
        board.oval(x + wide / 2, y + 4, wide * 0.52, 5, BLACK, 130)
        board.shape(
            [
                (x + wide * u, y - v)
                for u, v in ((0, 4), (0.02, 24), (0.2, 28), (0.34, 48), (0.72, 48), (0.88, 28), (1, 24), (1, 4))
            ],
            colour,
        )
        board.shape([(x + wide * u, y - v) for u, v in ((0.25, 29), (0.37, 44), (0.69, 44), (0.82, 29))], (44, 54, 64))
        for u in (0.2, 0.8):
            board.oval(x + wide * u, y - 3, 11, 11, BLACK)
            board.oval(x + wide * u, y - 3, 5, 5, (150, 150, 152))
        board.box(x + wide - 8, y - 22, x + wide, y - 16, (200, 60, 40))


def _plants(board: Board, dice: Dice, edge: float) -> None:
    for _ in range(3):
        x, base = dice.between(-10, 256), edge + dice.between(-6, 14)
        board.limb((x, base), (x + dice.between(-6, 6), base - 60), 5, 3, (84, 64, 48))
        for _ in range(16):
            leaf = dice.tint((58, 92, 46), 34)
            board.oval(
                x + dice.bell(0, 30), base - 55 + dice.bell(0, 40), dice.between(4, 12), dice.between(3, 10), leaf
            )


def _pillars(board: Board, dice: Dice, edge: float) -> None:
    wide, gap, x = dice.between(14, 30), dice.between(60, 110), dice.between(-20, 40)
    colour = dice.tint((140, 138, 134), 50)
    while x < 256:
        board.box(x, 0, x + wide, edge + 14, colour)
        board.box(x + wide * 0.7, 0, x + wide, edge + 14, BLACK, 60)
        board.box(x, edge - 34, x + wide, edge - 20, dice.tint((200, 170, 40), 40), 200)
        x += wide + gap


def _doors(board: Board, dice: Dice, edge: float) -> None:
    for _ in range(2):
        x, wide, tall = dice.between(-20, 230), dice.between(40, 64), dice.between(90, 130)
        colour = dice.tint((96, 84, 76), 50)
        board.box(x, edge - tall, x + wide, edge + 2, colour)
        board.box(x + 5, edge - tall + 8, x + wide - 5, edge - tall * 0.45, dice.tint((150, 168, 178), 40))
        board.box(x + wide - 8, edge - tall * 0.45, x + wide - 4, edge - tall * 0.3, (210, 200, 170))


def _lamps(board: Board, dice: Dice, edge: float) -> None:
    for _ in range(3):
        x, y = dice.between(0, 256), dice.between(0, edge * 0.5)
        for radius, alpha in ((34, 30), (20, 60), (9, 220)):
            board.oval(x, y, radius, radius, (255, 246, 220), alpha)
        board.oval(x, edge + (board.height - edge) * dice.between(0.2, 0.8), 40, 10, (255, 240, 200), 60)


def _fence(board: Board, dice: Dice, edge: float) -> None:
    colour, step = dice.tint((100, 100, 104), 50), dice.between(7, 14)
    for i in range(int(256 / step)):
        board.box(i * step, edge - 46, i * step + 2, edge + 6, colour)
    board.box(0, edge - 46, 255, edge - 42, colour)
    board.box(0, edge - 10, 255, edge - 7, colour)


def _stairs(board: Board, dice: Dice, edge: float) -> None:
    colour = dice.tint((120, 118, 112), 40)
    for i in range(9):
        y = edge - 50 + i * 11
        board.box(0, y, 255, y + 6, scaled(colour, 122))
        board.box(0, y + 6, 255, y + 11, scaled(colour, 72))


def _benches(board: Board, dice: Dice, edge: float) -> None:
    for _ in range(2):
        x, y = dice.between(-30, 220), edge + dice.between(10, 50)
        colour = dice.tint((110, 84, 60), 50)
        for dy in (-34, -26, -14):
            board.box(x, y + dy, x + 80, y + dy + 5, colour)
        for dx in (6, 70):
            board.box(x + dx, y - 34, x + dx + 4, y + 4, (50, 50, 54))


def _puddles(board: Board, dice: Dice, edge: float) -> None:
    for _ in range(7):
        y = dice.between(edge + 6, board.height)
        board.oval(
            dice.between(0, 256), y, dice.between(14, 50), dice.between(3, 9), dice.tint((150, 160, 172), 30), 130
        )


def _signs(board: Board, dice: Dice, edge: float) -> None:
    y = dice.between(10, edge * 0.5)
    board.box(0, y, 255, y + 24, dice.tint((40, 60, 110), 50))
    for i in range(12):
        x = i * 22 + dice.between(0, 8)
        board.box(x, y + 8, x + dice.between(5, 16), y + 16, (236, 236, 230))


def _crowd(board: Board, dice: Dice, edge: float) -> None:
    for _ in range(4):
        height = dice.between(90, 140)
        pose = Pose(
            x=dice.between(0, 256),
            foot=edge + 8 + height * 0.2,
            height=height,
            turn=dice.throw(),
            stride=dice.between(-1, 1),
        )
        draw_person(board, population(dice), pose)


SCENERY: Mapping[str, Callable[[Board, Dice, float], None]] = {
    "windows": _windows,
    "paving": _paving,
    "tiles": _tiles,
    "shelves": _shelves,
    "posters": _posters,
    "cars": _cars,
    "plants": _plants,
    "pillars": _pillars,
    "doors": _doors,
    "lamps": _lamps,
    "fence": _fence,
    "stairs": _stairs,
    "benches": _benches,
    "puddles": _puddles,
    "signs": _signs,
    "crowd": _crowd,
}


def draw_occluder(board: Board, dice: Dice, kind: str) -> None:
    """Put something between the camera and the person, over a 128 x 256 view: one of OCCLUDERS."""
    side = dice.choice((-1, 1))
    edge = 64 + side * dice.between(8, 34)  # how far it reaches in from its side
    left, right = (-10.0, edge - 20) if side < 0 else (edge + 20, 140.0)
    if kind == "pillar":
        colour = dice.tint((136, 132, 128), 40)
        board.box(left, -5, right, 262, colour)
        board.box(left, -5, left + 5, 262, scaled(colour, 70))
    elif kind == "bin":
        top = dice.between(150, 205)
        colour = dice.tint(dice.choice(((40, 70, 52), (60, 62, 66), (150, 120, 40))), 20)
        board.box(left, top, right + 16 * (side < 0), 262, colour)
        board.box(left, top, right + 16 * (side < 0), top + 8, scaled(colour, 140))
    elif kind == "rail":
        top, colour = dice.between(140, 190), dice.tint((120, 122, 126), 60)
        board.box(-5, top, 133, top + 6, colour)
        for i in range(7):
            board.box(i * 20 + side * 4, top, i * 20 + side * 4 + 3, 262, colour)
    elif kind == "leaves":
        top = dice.between(150, 210)
        for _ in range(34):
            leaf = dice.tint((54, 92, 44), 36)
            board.oval(
                dice.between(-4, 132), top + dice.between(0, 110), dice.between(5, 14), dice.between(4, 10), leaf
            )
    elif kind == "hood":
        top, colour = dice.between(165, 215), dice.tint(dice.pick(UPPER_COLOURS), 10)
        board.shape([(-8, top + 18), (24, top), (110, top), (136, top + 18), (136, 262), (-8, 262)], colour)
        board.box(4, top + 26, 30, top + 38, (236, 230, 200))
    elif kind == "seat":
        top, colour = dice.between(180, 212), dice.tint((60, 66, 100), 40)
        for i in range(3):
            board.box(i * 46 - 8, top, i * 46 + 32, 262, colour)
            board.box(i * 46 - 8, top, i * 46 + 32, top + 6, scaled(colour, 150))
    else:
        height = dice.between(215, 260)
        pose = Pose(
            x=64 + side * dice.between(40, 62),
            foot=dice.between(262, 300),
            height=height,
            turn=dice.throw(),
            stride=dice.between(-1, 1),
        )
        draw_person(board, population(dice), pose)


OCCLUDERS = ("pillar", "bin", "rail", "leaves", "hood", "seat", "person")

"""The people of the built-in benchmark: the law they are drawn from, and how one of them is drawn in a pose.

Units and determinism: see drawing.py. Lengths of the body are shares of its height, and heights t run from 0, the floor, to 1.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from reidgen.data.drawing import BLACK, WHITE, Board, Colour, Dice, Point, direction, scaled

# The population law: what people wear, as weights. Few colours dominate, as in any street, so identities share them.
UPPER_COLOURS: Mapping[Colour, int] = {
    (26, 26, 30): 19, (62, 64, 68): 9, (118, 120, 124): 8, (172, 172, 172): 6, (232, 232, 228): 14,
    (32, 42, 78): 10, (58, 92, 150): 6, (122, 164, 206): 4, (148, 28, 36): 6, (204, 66, 70): 3,
    (44, 84, 56): 4, (106, 110, 70): 4, (192, 170, 134): 6, (104, 74, 52): 5, (226, 148, 168): 3,
    (228, 194, 66): 2, (112, 62, 120): 2, (226, 118, 44): 2, (44, 138, 138): 2,
}  # fmt: skip
LOWER_COLOURS: Mapping[Colour, int] = {
    (24, 25, 29): 26, (54, 72, 110): 20, (38, 46, 68): 16, (106, 132, 168): 9, (72, 72, 76): 9,
    (132, 132, 130): 5, (188, 168, 134): 6, (104, 84, 62): 3, (78, 84, 60): 3, (224, 222, 216): 4, (132, 40, 52): 1,
}  # fmt: skip
SHOE_COLOURS: Mapping[Colour, int] = {
    (22, 22, 24): 44, (230, 230, 228): 24, (92, 62, 42): 14, (110, 112, 116): 10, (46, 56, 96): 5, (178, 44, 48): 4,
}  # fmt: skip
SKINS: Mapping[Colour, int] = {(238, 202, 176): 30, (222, 178, 146): 30, (188, 138, 104): 20, (128, 86, 62): 12, (84, 56, 44): 8}  # fmt: skip
HAIRS: Mapping[Colour, int] = {(24, 20, 20): 42, (58, 40, 30): 26, (104, 74, 48): 12, (186, 150, 92): 9, (150, 148, 146): 9, (128, 56, 36): 2}  # fmt: skip
UPPERS = {"tee": 26, "shirt": 16, "hoodie": 14, "jacket": 22, "coat": 12, "dress": 6, "vest": 4}
LOWERS = {"trousers": 46, "slim": 26, "shorts": 14, "skirt": 14}
PATTERNS = {"plain": 56, "bars": 10, "pinstripe": 4, "checks": 8, "print": 12, "yoke": 6, "sides": 4}
HAIRCUTS = {"short": 44, "bald": 6, "long": 20, "tail": 12, "cap": 10, "scarf": 4, "beanie": 4}
BAGS = {"none": 36, "backpack": 26, "shoulder": 18, "hand": 10, "paper": 5, "trolley": 5}


@dataclass(frozen=True)
class Person:
    """An identity: what stays the same in all images of one person. Lengths are shares of the body height."""

    height: float
    build: float
    shoulders: float
    belly: float
    skin: Colour
    hair: Colour
    haircut: str
    upper: str
    upper_colour: Colour
    second_colour: Colour
    inner_colour: Colour
    pattern: str
    pattern_size: float
    printed_back: bool
    open: bool
    sleeve: float
    hem: float
    lower: str
    lower_colour: Colour
    lower_hem: float
    tights: bool
    shoe_colour: Colour
    bag: str
    bag_colour: Colour
    bag_size: float
    bag_side: int
    glasses: bool
    beard: bool


def population(dice: Dice) -> Person:
    """Return a person drawn from the law that all domains share."""
    upper = dice.pick(UPPERS)
    upper_colour = dice.tint(dice.pick(UPPER_COLOURS), 16)
    pattern = dice.pick(PATTERNS)
    if upper in ("jacket", "coat", "vest") and pattern in ("print", "bars"):
        pattern = "plain"
    lower = "skirt" if upper == "dress" else dice.pick(LOWERS)
    long_sleeved = upper in ("hoodie", "jacket", "coat") or (upper in ("shirt", "dress") and dice.chance(0.5))
    hems = {"tee": 0.49, "shirt": 0.475, "hoodie": 0.48, "jacket": 0.46, "coat": 0.33, "dress": 0.5, "vest": 0.49}
    return Person(
        height=dice.bell(1.0, 0.12),
        build=dice.bell(1.02, 0.3),
        shoulders=dice.bell(1.0, 0.16),
        belly=dice.bell(1.0, 0.3),
        skin=dice.tint(dice.pick(SKINS), 9),
        hair=dice.tint(dice.pick(HAIRS), 9),
        haircut=dice.pick(HAIRCUTS),
        upper=upper,
        upper_colour=upper_colour,
        second_colour=dice.tint(dice.pick(UPPER_COLOURS), 12),
        inner_colour=dice.tint(dice.pick(UPPER_COLOURS), 12),
        pattern=pattern,
        pattern_size=dice.between(0.018, 0.05),
        printed_back=dice.chance(0.4),
        open=upper in ("jacket", "coat", "shirt") and dice.chance(0.5),
        sleeve=1.0 if long_sleeved else dice.between(0.25, 0.55),
        hem=hems[upper] + dice.between(-0.03, 0.015),
        lower=lower,
        lower_colour=upper_colour if upper == "dress" else dice.tint(dice.pick(LOWER_COLOURS), 14),
        lower_hem=dice.between(0.24, 0.36),
        tights=dice.chance(0.4),
        shoe_colour=dice.tint(dice.pick(SHOE_COLOURS), 8),
        bag=dice.pick(BAGS),
        bag_colour=dice.tint(dice.pick(UPPER_COLOURS), 14),
        bag_size=dice.between(0.8, 1.25),
        bag_side=dice.choice((-1, 1)),
        glasses=dice.chance(0.2),
        beard=dice.chance(0.15),
    )


@dataclass(frozen=True)
class Pose:
    """One moment of a person: where the feet are, how tall the body appears, which way it faces and how it steps.

    turn: 0 faces the camera, 0.25 faces right, 0.5 faces away. stride: -1..1, which leg is forward and how far.
    pitch: 0 seen from eye level, 0.5 from high above (legs shrink, head and shoulders grow). light: -1 or 1, the bright side.
    arm: swing, phone, pocket or fold. fold: 0..1, where the cloth creases.
    """

    x: float
    foot: float
    height: float
    turn: float
    stride: float = 0.3
    pitch: float = 0.0
    lean: float = 0.0
    light: int = 1
    arm: str = "swing"
    fold: float = 0.5


# (height above the floor, half width seen from the front, half width seen from the side), in body heights
TORSO = ((0.84, 0.05, 0.045), (0.815, 0.112, 0.055), (0.72, 0.112, 0.07), (0.63, 0.094, 0.068), (0.53, 0.1, 0.078))


class _Body:
    """The coordinates of one posed person, and the few shapes that follow the body."""

    def __init__(self, board: Board, person: Person, pose: Pose) -> None:
        self.board, self.person, self.pose = board, person, pose
        self.front, self.side = direction(pose.turn)
        self.size = pose.height * person.height
        girth = (1.0, person.shoulders, person.shoulders, person.build * person.belly, person.build)
        self.profile = [
            (t, self._seen(wide * factor, deep * person.build * (person.belly if t < 0.7 else 1)))
            for (t, wide, deep), factor in zip(TORSO, girth, strict=True)
        ]

    def _seen(self, wide: float, deep: float) -> float:
        across, along = wide * self.front, deep * self.side
        return math.sqrt(across * across + along * along)

    def grow(self, t: float) -> float:
        """Return the pixels that one body height of width takes at height t."""
        return self.size * (1 - self.pose.pitch / 2 + self.pose.pitch * t)

    def at(self, across: float, t: float) -> Point:
        """Return the board's point that lies `across` body heights to the right of the body's axis, at height t."""
        p = self.pose.pitch
        x = self.pose.x + self.pose.lean * self.size * (t - 0.5) + across * self.grow(t)
        return x, self.pose.foot - self.size * t * (1 - p + p * t)

    def width(self, t: float, *, flare: float = 0.0) -> float:
        """Return the half width of the clothed trunk at height t; below the hips it widens by `flare`."""
        above = self.profile[0]
        for below in self.profile[1:]:
            if t >= below[0]:
                share = (above[0] - t) / (above[0] - below[0])
                return above[1] + (below[1] - above[1]) * max(0.0, share)
            above = below
        return above[1] + flare * (above[0] - t)

    def patch(
        self, u0: float, u1: float, t0: float, t1: float, colour: Colour, alpha: int = 255, flare: float = 0.0
    ) -> None:
        """Fill the part of the trunk between two heights, from u0 to u1 of its half width (-1 left, 1 right)."""
        w0, w1 = self.width(t0, flare=flare), self.width(t1, flare=flare)
        corners = (self.at(u0 * w0, t0), self.at(u1 * w0, t0), self.at(u1 * w1, t1), self.at(u0 * w1, t1))
        self.board.shape(corners, colour, alpha)

    def trunk(self, hem: float, colour: Colour, alpha: int = 255, flare: float = 0.0) -> None:
        """Fill the trunk from the neck down to the hem."""
        levels = [t for t, _ in self.profile if t > hem] + [hem]
        widths = [self.width(t, flare=flare) for t in levels]
        right = [self.at(w, t) for w, t in zip(widths, levels, strict=True)]
        left = [self.at(-w, t) for w, t in zip(widths, levels, strict=True)]
        self.board.shape([*right, *reversed(left)], colour, alpha)


def draw_person(board: Board, person: Person, pose: Pose) -> None:
    """Draw one person onto the board, far parts first, so that near limbs and bags cover what lies behind them."""
    body = _Body(board, person, pose)
    near = 1 if body.side >= 0 else -1  # the body's right side is the near one when it faces right
    x, y = pose.x, pose.foot
    board.oval(x, y - 1, 0.17 * body.size, 0.022 * body.size, BLACK, 110)
    board.shape(
        ((x - 12, y), (x + 12, y), (x + 12 - 70 * pose.light, y + 22), (x - 12 - 70 * pose.light, y + 22)), BLACK, 45
    )
    facing_away = body.front < 0
    if not facing_away:
        _draw_backpack(body, behind=True)
    _draw_arm(body, -near)
    if person.bag == "trolley":
        _draw_trolley(body)
    _draw_leg(body, -near)
    _draw_leg(body, near)
    if person.haircut == "long" and not facing_away:
        _draw_long_hair(body)
    _draw_trunk(body)
    if not facing_away:
        _draw_head(body)
    _draw_arm(body, near)
    if facing_away:
        _draw_head(body)
        _draw_backpack(body, behind=False)
    _draw_bag(body)


def _draw_leg(body: _Body, right: int) -> None:
    person, pose, board = body.person, body.pose, body.board
    swing = pose.stride * right
    hip_x = -body.front * right * 0.048 * person.build
    hip, knee, ankle = body.at(hip_x, 0.52), body.at(0, 0.28), body.at(0, 0.04)
    grow = body.grow(0.3)
    lift = 0.03 * max(0.0, -swing)
    reach = body.side * swing
    knee = body.at(hip_x * 0.95 + 0.075 * reach + 0.02 * body.side, 0.28 + lift * 0.5)
    ankle = body.at(hip_x * 0.9 + 0.15 * reach, 0.035 + lift)
    bare = scaled(person.lower_colour, 45) if person.tights else person.skin
    cloth = scaled(person.lower_colour, 100 if right * body.side >= 0 else 84)
    loose = {"trousers": 1.12, "slim": 0.86, "shorts": 1.15, "skirt": 0.85}[person.lower] * (0.55 + 0.45 * person.build)
    thigh_colour, calf_colour = (
        (bare, bare) if person.lower == "skirt" else (cloth, bare if person.lower == "shorts" else cloth)
    )
    board.limb(hip, knee, 0.105 * loose * grow, 0.074 * loose * grow, thigh_colour)
    calf = 0.075 * loose if calf_colour is cloth else 0.058
    board.limb(knee, ankle, calf * grow, (0.056 * loose if calf_colour is cloth else 0.034) * grow, calf_colour)
    board.oval(
        knee[0], knee[1], calf * grow / 2, calf * grow / 2, calf_colour if person.lower == "slim" else thigh_colour
    )
    for start, end in ((hip, knee), (knee, ankle)):  # the side away from the light
        off = -pose.light * 0.022 * grow
        board.limb((start[0] + off, start[1]), (end[0] + off, end[1]), 0.03 * grow, 0.018 * grow, BLACK, 44)
    toe = 0.05 * body.side * grow
    foot_y = ankle[1] + 0.018 * grow
    board.oval(ankle[0] + toe * 0.5, foot_y, 0.026 * grow + abs(toe) * 0.65, 0.02 * grow, person.shoe_colour)
    board.box(ankle[0] - 0.02 * grow, foot_y - 0.03 * grow, ankle[0] + 0.02 * grow, foot_y, person.shoe_colour)


def _hand(body: _Body, right: int) -> tuple[Point, Point, Point]:
    person, pose = body.person, body.pose
    swing = -pose.stride * right
    shoulder_x = -body.front * right * 0.104 * person.shoulders
    out = -body.front * right * (0.02 + 0.03 * (person.build - 0.8))
    elbow = body.at(shoulder_x + out + body.side * swing * 0.05 - 0.012 * body.side, 0.645)
    hand = body.at(shoulder_x + out * 1.1 + body.side * (swing * 0.13 + 0.03), 0.5)
    if pose.arm == "phone" and right == person.bag_side:
        elbow = body.at(shoulder_x + out * 2.2 + body.side * 0.03, 0.66)
        hand = body.at(shoulder_x * 0.75 + body.side * 0.07, 0.86)
    elif pose.arm == "pocket":
        elbow = body.at(shoulder_x + out * 2.6 - body.side * 0.03, 0.65)
        hand = body.at(shoulder_x * 0.8 + body.side * 0.03, 0.53)
    elif pose.arm == "fold" and right != person.bag_side:
        hand = body.at(shoulder_x * 0.2 + body.side * 0.09, 0.64)
    return body.at(shoulder_x, 0.8), elbow, hand


def _draw_arm(body: _Body, right: int) -> None:
    person, board = body.person, body.board
    shoulder, elbow, hand = _hand(body, right)
    grow = body.grow(0.7) * (0.5 + 0.5 * person.build)
    colour = person.second_colour if person.pattern == "yoke" or person.upper == "vest" else person.upper_colour
    cloth = scaled(colour, 96 if right * body.side >= -0.3 else 78)
    hand_w = 0.034 * grow
    board.limb(elbow, hand, 0.046 * grow, 0.034 * grow, cloth if person.sleeve > 0.9 else person.skin)
    upper_colour = cloth if person.sleeve > 0.5 else person.skin
    board.limb(shoulder, elbow, 0.066 * grow, 0.048 * grow, upper_colour)
    board.oval(elbow[0], elbow[1], 0.024 * grow, 0.024 * grow, upper_colour)
    if person.sleeve <= 0.5:
        end = (
            shoulder[0] + (elbow[0] - shoulder[0]) * person.sleeve * 1.6,
            shoulder[1] + (elbow[1] - shoulder[1]) * person.sleeve * 1.6,
        )
        board.limb(shoulder, end, 0.07 * grow, 0.066 * grow, cloth)
    if person.pattern == "sides":
        board.limb(shoulder, elbow, 0.02 * grow, 0.016 * grow, person.second_colour)
    board.oval(shoulder[0], shoulder[1] + 0.01 * grow, 0.036 * grow, 0.036 * grow, cloth)
    board.oval(hand[0], hand[1] + 0.01 * grow, hand_w * 0.6, hand_w * 0.75, person.skin)
    off = -body.pose.light * 0.014 * grow
    board.limb((shoulder[0] + off, shoulder[1]), (elbow[0] + off, elbow[1]), 0.022 * grow, 0.016 * grow, BLACK, 50)
    board.limb((elbow[0] + off, elbow[1]), (hand[0] + off, hand[1]), 0.016 * grow, 0.012 * grow, BLACK, 50)


def _draw_trunk(body: _Body) -> None:
    person, pose = body.person, body.pose
    flare = {"dress": 0.16, "coat": 0.1}.get(person.upper, 0.03)
    if person.lower == "skirt":
        body.trunk(min(person.lower_hem, 0.34), person.lower_colour, flare=0.2)
    else:
        body.trunk(0.47, person.lower_colour, flare=-0.1)
    body.trunk(person.hem, person.upper_colour, flare=flare)
    bottom = person.hem
    seen = body.side if body.front >= 0 else -body.side  # where the middle of the chest or of the back is seen
    open_to_view = max(0.0, body.front)
    second, step = person.second_colour, person.pattern_size
    if person.pattern == "bars":
        t = 0.79
        while t - step / 2 > bottom:
            body.patch(-1, 1, t, t - step / 2, second, flare=flare)
            t -= step
    elif person.pattern == "yoke":
        body.patch(-1, 1, 0.815, 0.72, second)
        body.patch(-0.5, 0.5, 0.84, 0.81, second)
    elif person.pattern == "sides":
        for u in (-0.9, 0.7):
            body.patch(u, u + 0.2, 0.79, bottom, second, flare=flare)
    if person.pattern in ("pinstripe", "checks"):
        count = int(0.2 / step)
        for i in range(-count, count + 1):
            u = seen + i / (count + 0.5) * (abs(body.front) * 0.8 + 0.2)
            if -0.95 < u < 0.95:
                body.patch(u - 0.05, u + 0.05, 0.81, bottom, second, 170, flare)
    if person.pattern == "checks":
        t = 0.79
        while t - 0.012 > bottom:
            body.patch(-1, 1, t, t - 0.012, second, 150, flare)
            t -= step * 1.2
    if person.pattern == "print" and abs(body.front) > 0.3 and (body.front > 0 or person.printed_back):
        half = 0.5 * abs(body.front)
        body.patch(seen * 0.6 - half, seen * 0.6 + half, 0.76, 0.76 - 0.06 - step, second)
        body.patch(seen * 0.6 - half * 0.6, seen * 0.6 + half * 0.6, 0.745, 0.73, person.inner_colour)
    if person.upper in ("jacket", "coat", "shirt") and open_to_view > 0.1:
        half = (0.34 if person.open else 0.04) * open_to_view
        colour = person.inner_colour if person.open else scaled(person.upper_colour, 55)
        low = max(bottom, 0.47) if person.open else bottom
        body.patch(seen - half * 0.7, seen + half * 0.7, 0.83, 0.72, colour)
        body.patch(seen - half * 0.7, min(0.97, seen + half), 0.72, low, colour, flare=flare)
    elif person.upper == "hoodie":
        body.patch(-0.85, 0.85, 0.85, 0.815, scaled(person.upper_colour, 76))
        if open_to_view > 0.3:
            body.patch(
                seen - 0.5 * open_to_view,
                min(0.95, seen + 0.5 * open_to_view),
                0.58,
                0.51,
                scaled(person.upper_colour, 80),
            )
    elif open_to_view > 0.2 and person.upper in ("tee", "dress", "vest"):
        body.patch(seen * 0.7 - 0.5, seen * 0.7 + 0.5, 0.842, 0.825, person.skin)
    if person.upper not in ("coat", "dress") and person.hem > 0.47:
        body.patch(-1, 1, person.hem + 0.006, person.hem - 0.004, scaled(person.upper_colour, 62), flare=flare)
    dark = -pose.light  # form shadow, then folds
    for inner, alpha in ((0.2, 26), (0.5, 34), (0.78, 46)):
        body.patch(min(dark, dark * inner), max(dark, dark * inner), 0.815, bottom, BLACK, alpha, flare)
    body.patch(min(-dark * 0.75, -dark * 0.4), max(-dark * 0.75, -dark * 0.4), 0.8, 0.6, WHITE, 22)
    tilt = pose.fold - 0.5
    for i in range(4):
        t = 0.77 - 0.075 * i - 0.03 * pose.fold
        u = 0.9 * ((pose.fold * (3 + i)) % 1.0) - 0.7
        start, end = body.at(u * body.width(t), t), body.at((u + 0.5) * body.width(t), t - 0.05 - 0.06 * tilt)
        body.board.limb(start, end, 3, 1, BLACK, 40)


def _draw_long_hair(body: _Body) -> None:
    cx = -0.03 * body.side
    body.board.shape(
        [body.at(cx - 0.056, 0.95), body.at(cx + 0.056, 0.95), body.at(cx + 0.062, 0.78), body.at(cx - 0.062, 0.78)],
        body.person.hair,
    )


def _draw_head(body: _Body) -> None:
    person, board, side, front = body.person, body.board, body.side, body.front
    grow = body.grow(0.93)
    lean = 0.016 * side
    (x, y), neck = body.at(lean, 0.93), body.at(0.4 * lean, 0.83)
    board.limb((x, y), neck, 0.058 * grow, 0.066 * grow, scaled(person.skin, 78))
    wide, tall = (0.05 + 0.008 * abs(side)) * grow, 0.068 * grow
    hair = person.second_colour if person.haircut in ("cap", "scarf", "beanie") else person.hair
    board.oval(x, y, wide, tall, person.skin if person.haircut == "bald" or front > -0.2 else hair)
    if person.haircut == "bald" and front < -0.2:
        board.oval(x, y, wide, tall, person.hair)
        board.oval(x, y - tall * 0.25, wide * 0.98, tall * 0.76, person.skin)
    if front > -0.75:
        fx = x + side * wide * 0.42
        if front <= -0.2:
            board.oval(fx + side * wide * 0.3, y + tall * 0.1, wide * 0.35, tall * 0.6, person.skin)
        elif person.haircut != "bald":  # hair frames the face on the side that looks away
            board.oval(x - side * wide * 0.5, y - tall * 0.1, wide * (0.45 + 0.5 * abs(side)), tall * 0.85, hair)
            board.oval(fx, y + tall * 0.12, wide * (0.5 + 0.36 * front), tall * 0.86, person.skin)
        if front > -0.1:
            eyes = BLACK if person.glasses else scaled(person.skin, 45)
            board.box(
                fx - wide * 0.6 * front,
                y - tall * 0.08,
                fx + wide * 0.6,
                y + tall * 0.08,
                eyes,
                190 if person.glasses else 120,
            )
            board.box(fx - wide * 0.25, y + tall * 0.5, fx + wide * 0.3, y + tall * 0.6, (120, 50, 50), 120)
            if person.beard:
                board.oval(fx, y + tall * 0.68, wide * 0.72, tall * 0.34, person.hair)
    if person.haircut != "bald":
        drop = 0.34 if person.haircut in ("short", "tail", "long") else 0.2
        board.shape(
            [
                (x - wide * 1.04, y - tall * drop * 0.3),
                (x - wide * 0.95, y - tall * 0.72),
                (x - wide * 0.4, y - tall * 1.08),
                (x + wide * 0.4, y - tall * 1.08),
                (x + wide * 0.95, y - tall * 0.72),
                (x + wide * 1.04, y - tall * drop * 0.3),
                (x + side * wide * 0.3, y - tall * (0.55 if front > 0 else drop)),
            ],
            hair,
        )
    if person.haircut == "cap" and front > -0.5:
        board.oval(x + side * wide * 1.0, y - tall * 0.42, wide * (0.75 + 0.2 * front), tall * 0.15, scaled(hair, 75))
    elif person.haircut == "scarf":
        board.shape(
            [(x - wide, y), (x + wide, y), (x + wide * 1.4, y + tall * 1.7), (x - wide * 1.4, y + tall * 1.7)],
            hair,
            255 if front < 0.2 else 0,
        )
        board.oval(x, y + tall * 1.15, wide * 1.05, tall * 0.4, hair)
    elif person.haircut == "tail" and front < 0.7:
        board.oval(x - side * wide * 1.1, y + tall * 0.5, wide * 0.4, tall * 0.8, hair)
    elif person.haircut == "long" and front < 0:
        _draw_long_hair(body)
    board.oval(x - body.pose.light * wide * 0.6, y, wide * 0.42, tall * 0.85, BLACK, 40)


def _draw_backpack(body: _Body, *, behind: bool) -> None:
    person = body.person
    if person.bag != "backpack":
        return
    size = person.bag_size
    middle = -body.side * (0.1 if behind else 0.085)
    half = 0.045 + 0.055 * abs(body.front) * size
    top, bottom = 0.81, 0.81 - 0.21 * size
    corners = [
        (-0.8, top + 0.01),
        (0.8, top + 0.01),
        (1, top - 0.04),
        (1.04, bottom),
        (-1.04, bottom),
        (-1, top - 0.04),
    ]
    body.board.shape([body.at(middle + half * u, t) for u, t in corners], person.bag_colour)
    if not behind:
        low = [
            body.at(middle + half * u, t)
            for u, t in ((-0.75, bottom + 0.09), (0.75, bottom + 0.09), (0.75, bottom + 0.01), (-0.75, bottom + 0.01))
        ]
        body.board.shape(low, scaled(person.bag_colour, 76))
        dark = -body.pose.light * half
        body.board.shape(
            [body.at(middle + dark * u, t) for u, t in ((0.4, top), (1, top - 0.02), (1, bottom), (0.4, bottom))],
            BLACK,
            60,
        )


def _draw_bag(body: _Body) -> None:
    person, board = body.person, body.board
    grow, size, colour = body.grow(0.6), person.bag_size, person.bag_colour
    right = person.bag_side
    if person.bag == "backpack" and body.front > 0.1:
        for u in (-0.55, 0.55):
            v = body.side * 0.8 + u * body.front
            if abs(v) < 0.95:
                body.patch(v - 0.09, v + 0.09, 0.825, 0.66, colour)
    elif person.bag == "shoulder":
        x, t = -body.front * right * 0.125, 0.53
        hidden = right * body.side < -0.5
        v0, v1 = body.front * right * 0.6, -body.front * right * 0.8
        body.board.limb(
            body.at(v0 * body.width(0.81), 0.82), body.at(v1 * body.width(0.6), 0.56), 4, 4, scaled(colour, 70)
        )
        if not hidden:
            cx, cy = body.at(x, t)
            half = 0.07 * size * grow
            board.shape(
                [
                    (cx - half * 0.9, cy - half * 0.7),
                    (cx + half * 0.9, cy - half * 0.7),
                    (cx + half, cy + half * 0.8),
                    (cx - half, cy + half * 0.8),
                ],
                colour,
            )
            board.box(cx - half * 0.9, cy - half * 0.7, cx + half * 0.9, cy - half * 0.2, scaled(colour, 72))
    elif person.bag in ("hand", "paper"):
        _, _, (cx, cy) = _hand(body, right)
        if body.pose.arm == "phone":
            cx, cy = body.at(-body.front * right * 0.14, 0.5)
        half = (0.055 if person.bag == "hand" else 0.07) * size * grow
        tall = half * (1.3 if person.bag == "hand" else 2.0)
        fill = colour if person.bag == "hand" else WHITE
        board.limb((cx, cy), (cx, cy + 0.06 * grow), 3, half, scaled(fill, 60), 170)
        board.shape(
            [
                (cx - half * 0.8, cy + 0.05 * grow),
                (cx + half * 0.8, cy + 0.05 * grow),
                (cx + half, cy + 0.05 * grow + tall),
                (cx - half, cy + 0.05 * grow + tall),
            ],
            fill,
        )


def _draw_trolley(body: _Body) -> None:
    person = body.person
    x = -body.side * 0.17 - body.front * person.bag_side * 0.13
    half, top = 0.06 * person.bag_size, 0.3 * person.bag_size
    _, _, hand = _hand(body, person.bag_side)
    body.board.limb(hand, body.at(x, top), 4, 4, scaled(person.bag_colour, 50))
    body.board.shape(
        [body.at(x + half * u, t) for u, t in ((-1, top), (1, top), (1, 0.03), (-1, 0.03))], person.bag_colour
    )
    body.board.shape(
        [body.at(x + half * u, t) for u, t in ((0.3, top), (0.5, top), (0.5, 0.03), (0.3, 0.03))], BLACK, 90
    )

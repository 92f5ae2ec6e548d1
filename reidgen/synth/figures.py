"""How a person of the built-in benchmark is drawn in a pose.

Units and determinism: see drawing.py. Lengths of the body are shares of its height; heights t run from 0, the floor, to
1.
"""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

from reidgen.synth.drawing import BLACK, WHITE, Board, Colour, Point, direction, scaled
from reidgen.synth.people import Person


@dataclass(frozen=True)
class Pose:
    """One moment of a person: where the feet are, how tall the body appears, which way it faces and how it steps.

    turn: 0 faces the camera, 0.25 faces right, 0.5 faces away. stride: -1..1, which leg is forward and how far.
    pitch: 0 seen from eye level, 0.5 from high above (legs shrink, head and shoulders grow).
    lean: how far the head is right of the feet, in body heights. light: -1 or 1, the bright side.
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
    """The coordinates of one posed person, and the few shapes that follow the body.

    side, front: sine and cosine of where it faces: 1, 0 to the right, 0, 1 towards the camera.
    """

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
        for (high, upper), (low, lower) in itertools.pairwise(self.profile):
            if t >= low:
                return upper + (lower - upper) * max(0.0, (high - t) / (high - low))
        return lower + flare * (low - t)

    def block(self, middle: float, half: float, corners: Iterable[Point], colour: Colour, alpha: int = 255) -> None:
        """Fill a polygon; its corners are (half widths to the right of `middle`, height)."""
        self.board.shape([self.at(middle + half * u, t) for u, t in corners], colour, alpha)

    def shade(self, start: Point, end: Point, off: float, width0: float, width1: float, alpha: int) -> None:
        """Darken the side of a limb that lies away from the light, `off` pixels from its axis."""
        off = -self.pose.light * off
        self.board.limb((start[0] + off, start[1]), (end[0] + off, end[1]), width0, width1, BLACK, alpha)

    def patch(
        self, u0: float, u1: float, t0: float, t1: float, colour: Colour, alpha: int = 255, flare: float = 0.0
    ) -> None:
        """Fill the part of the trunk between two heights, from u0 to u1 of its half width (-1 left, 1 right)."""
        w0, w1 = self.width(t0, flare=flare), self.width(t1, flare=flare)
        self.block(0, 1, ((u0 * w0, t0), (u1 * w0, t0), (u1 * w1, t1), (u0 * w1, t1)), colour, alpha)

    def trunk(self, hem: float, colour: Colour, *, flare: float) -> None:
        """Fill the trunk from the neck down to the hem."""
        edge = [(self.width(t, flare=flare), t) for t in (*(t for t, _ in self.profile if t > hem), hem)]
        self.block(0, 1, [*edge, *((-w, t) for w, t in reversed(edge))], colour)


def draw_person(board: Board, person: Person, pose: Pose) -> None:
    """Draw one person onto the board, far parts first, so that near limbs and bags cover what lies behind them."""
    body = _Body(board, person, pose)
    near = 1 if body.side >= 0 else -1  # the body's right side is the near one when it faces right
    x, y = pose.x, pose.foot
    board.oval(x, y - 1, 0.17 * body.size, 0.022 * body.size, BLACK, 110)
    cast = 70 * pose.light
    board.shape(((x - 12, y), (x + 12, y), (x + 12 - cast, y + 22), (x - 12 - cast, y + 22)), BLACK, 45)
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
    person, board = body.person, body.board
    swing = body.pose.stride * right
    reach, lift = body.side * swing, 0.03 * max(0.0, -swing)
    hip_x = -body.front * right * 0.048 * person.build
    hip = body.at(hip_x, 0.52)
    knee = body.at(hip_x * 0.95 + 0.075 * reach + 0.02 * body.side, 0.28 + lift * 0.5)
    ankle = body.at(hip_x * 0.9 + 0.15 * reach, 0.035 + lift)
    grow = body.grow(0.3)
    loose = {"trousers": 1.12, "slim": 0.86, "shorts": 1.15, "skirt": 0.85}[person.lower] * (0.55 + 0.45 * person.build)
    bare = scaled(person.lower_colour, 45) if person.tights else person.skin
    cloth = scaled(person.lower_colour, 100 if right * body.side >= 0 else 84)
    thigh_colour = bare if person.lower == "skirt" else cloth
    calf_colour, calf, foot = bare, 0.058, 0.034
    if person.lower in ("trousers", "slim"):
        calf_colour, calf, foot = cloth, 0.075 * loose, 0.056 * loose
    board.limb(hip, knee, 0.105 * loose * grow, 0.074 * loose * grow, thigh_colour)
    board.limb(knee, ankle, calf * grow, foot * grow, calf_colour)
    board.oval(knee[0], knee[1], calf * grow / 2, calf * grow / 2, thigh_colour)
    for start, end in ((hip, knee), (knee, ankle)):
        body.shade(start, end, 0.022 * grow, 0.03 * grow, 0.018 * grow, 44)
    toe = 0.05 * body.side * grow
    foot_y = ankle[1] + 0.018 * grow
    board.oval(ankle[0] + toe * 0.5, foot_y, 0.026 * grow + abs(toe) * 0.65, 0.02 * grow, person.shoe_colour)
    board.box(ankle[0] - 0.02 * grow, foot_y - 0.03 * grow, ankle[0] + 0.02 * grow, foot_y, person.shoe_colour)


def _arm(body: _Body, right: int) -> tuple[Point, Point, Point]:
    """Return where shoulder, elbow and hand are."""
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
    shoulder, elbow, hand = _arm(body, right)
    (x, y), grow = shoulder, body.grow(0.7) * (0.5 + 0.5 * person.build)
    colour = person.second_colour if person.pattern == "yoke" or person.upper == "vest" else person.upper_colour
    cloth = scaled(colour, 96 if right * body.side >= -0.3 else 78)
    upper_colour = cloth if person.sleeve > 0.5 else person.skin
    board.limb(elbow, hand, 0.046 * grow, 0.034 * grow, cloth if person.sleeve > 0.9 else person.skin)
    board.limb(shoulder, elbow, 0.066 * grow, 0.048 * grow, upper_colour)
    board.oval(elbow[0], elbow[1], 0.024 * grow, 0.024 * grow, upper_colour)
    if person.sleeve <= 0.5:
        end = x + (elbow[0] - x) * person.sleeve * 1.6, y + (elbow[1] - y) * person.sleeve * 1.6
        board.limb(shoulder, end, 0.07 * grow, 0.066 * grow, cloth)
    if person.pattern == "sides":
        board.limb(shoulder, elbow, 0.02 * grow, 0.016 * grow, person.second_colour)
    board.oval(x, y + 0.01 * grow, 0.036 * grow, 0.036 * grow, cloth)
    palm = 0.034 * grow
    board.oval(hand[0], hand[1] + 0.01 * grow, palm * 0.6, palm * 0.75, person.skin)
    body.shade(shoulder, elbow, 0.014 * grow, 0.022 * grow, 0.016 * grow, 50)
    body.shade(elbow, hand, 0.014 * grow, 0.016 * grow, 0.012 * grow, 50)


def _draw_trunk(body: _Body) -> None:
    person = body.person
    flare = {"dress": 0.16, "coat": 0.1}.get(person.upper, 0.03)
    if person.lower == "skirt":
        body.trunk(min(person.lower_hem, 0.34), person.lower_colour, flare=0.2)
    else:
        body.trunk(0.47, person.lower_colour, flare=-0.1)
    body.trunk(person.hem, person.upper_colour, flare=flare)
    seen = body.side if body.front >= 0 else -body.side  # where the middle of the chest or of the back is seen
    _draw_pattern(body, seen, flare)
    _draw_chest(body, seen, flare)
    if person.upper not in ("coat", "dress") and person.hem > 0.47:
        body.patch(-1, 1, person.hem + 0.006, person.hem - 0.004, scaled(person.upper_colour, 62), flare=flare)
    _draw_creases(body, flare)


def _draw_pattern(body: _Body, seen: float, flare: float) -> None:
    person = body.person
    second, step, bottom = person.second_colour, person.pattern_size, person.hem

    def stripes(thick: float, distance: float, alpha: int) -> None:
        t = 0.79
        while t - thick > bottom:
            body.patch(-1, 1, t, t - thick, second, alpha, flare)
            t -= distance

    if person.pattern == "bars":
        stripes(step / 2, step, 255)
    elif person.pattern == "yoke":
        body.patch(-1, 1, 0.815, 0.72, second)
        body.patch(-0.5, 0.5, 0.84, 0.81, second)
    elif person.pattern == "sides":
        for u in (-0.9, 0.7):
            body.patch(u, u + 0.2, 0.79, bottom, second, flare=flare)
    elif person.pattern in ("pinstripe", "checks"):
        count = int(0.2 / step)
        for i in range(-count, count + 1):
            u = seen + i / (count + 0.5) * (abs(body.front) * 0.8 + 0.2)
            if -0.95 < u < 0.95:
                body.patch(u - 0.05, u + 0.05, 0.81, bottom, second, 170, flare)
        if person.pattern == "checks":
            stripes(0.012, step * 1.2, 150)
    elif person.pattern == "print" and abs(body.front) > 0.3 and (body.front > 0 or person.printed_back):
        half = 0.5 * abs(body.front)
        body.patch(seen * 0.6 - half, seen * 0.6 + half, 0.76, 0.76 - 0.06 - step, second)
        body.patch(seen * 0.6 - half * 0.6, seen * 0.6 + half * 0.6, 0.745, 0.73, person.inner_colour)


def _draw_chest(body: _Body, seen: float, flare: float) -> None:
    """Draw what shows from the front: an opening, buttons, a hood and its pocket, or a neckline."""
    person, open_to_view = body.person, max(0.0, body.front)
    if person.upper in ("jacket", "coat", "shirt") and open_to_view > 0.1:
        half = (0.34 if person.open else 0.04) * open_to_view
        colour = person.inner_colour if person.open else scaled(person.upper_colour, 55)
        low = max(person.hem, 0.47) if person.open else person.hem
        body.patch(seen - half * 0.7, seen + half * 0.7, 0.83, 0.72, colour)
        body.patch(seen - half * 0.7, min(0.97, seen + half), 0.72, low, colour, flare=flare)
    elif person.upper == "hoodie":
        body.patch(-0.85, 0.85, 0.85, 0.815, scaled(person.upper_colour, 76))
        if open_to_view > 0.3:
            half = 0.5 * open_to_view
            body.patch(seen - half, min(0.95, seen + half), 0.58, 0.51, scaled(person.upper_colour, 80))
    elif person.upper in ("tee", "dress", "vest") and open_to_view > 0.2:
        body.patch(seen * 0.7 - 0.5, seen * 0.7 + 0.5, 0.842, 0.825, person.skin)


def _draw_creases(body: _Body, flare: float) -> None:
    """Draw the trunk's shadow and light, then the folds of its cloth."""
    dark, fold = -body.pose.light, body.pose.fold
    for inner, alpha in ((0.2, 26), (0.5, 34), (0.78, 46)):
        body.patch(min(dark, dark * inner), max(dark, dark * inner), 0.815, body.person.hem, BLACK, alpha, flare)
    body.patch(min(-dark * 0.75, -dark * 0.4), max(-dark * 0.75, -dark * 0.4), 0.8, 0.6, WHITE, 22)
    for i in range(4):
        t = 0.77 - 0.075 * i - 0.03 * fold
        u = 0.9 * ((fold * (3 + i)) % 1.0) - 0.7
        start, end = body.at(u * body.width(t), t), body.at((u + 0.5) * body.width(t), t - 0.05 - 0.06 * (fold - 0.5))
        body.board.limb(start, end, 3, 1, BLACK, 40)


def _draw_long_hair(body: _Body) -> None:
    corners = ((-0.056, 0.95), (0.056, 0.95), (0.062, 0.78), (-0.062, 0.78))
    body.block(-0.03 * body.side, 1, corners, body.person.hair)


def _draw_head(body: _Body) -> None:
    person, board, side, front = body.person, body.board, body.side, body.front
    grow = body.grow(0.93)
    lean = 0.016 * side
    (x, y), neck = body.at(lean, 0.93), body.at(0.4 * lean, 0.83)
    wide, tall = (0.05 + 0.008 * abs(side)) * grow, 0.068 * grow
    board.limb((x, y), neck, 0.058 * grow, 0.066 * grow, scaled(person.skin, 78))
    board.oval(x, y, wide, tall, person.skin if front > -0.2 else person.head_colour)
    if person.haircut == "bald" and front <= -0.2:
        board.oval(x, y - tall * 0.25, wide * 0.98, tall * 0.76, person.skin)
    if front > -0.75:
        _draw_face(body, x, y, wide, tall)
    if person.haircut != "bald":
        _draw_hair(body, x, y, wide, tall)
    board.oval(x - body.pose.light * wide * 0.6, y, wide * 0.42, tall * 0.85, BLACK, 40)


def _draw_face(body: _Body, x: float, y: float, wide: float, tall: float) -> None:
    person, board, side, front = body.person, body.board, body.side, body.front
    fx = x + side * wide * 0.42
    if front <= -0.2:
        board.oval(fx + side * wide * 0.3, y + tall * 0.1, wide * 0.35, tall * 0.6, person.skin)
    elif person.haircut != "bald":  # hair frames the face on the side that looks away
        colour = person.head_colour
        board.oval(x - side * wide * 0.5, y - tall * 0.1, wide * (0.45 + 0.5 * abs(side)), tall * 0.85, colour)
        board.oval(fx, y + tall * 0.12, wide * (0.5 + 0.36 * front), tall * 0.86, person.skin)
    if front > -0.1:
        eyes, alpha = (BLACK, 190) if person.glasses else (scaled(person.skin, 45), 120)
        board.box(fx - wide * 0.6 * front, y - tall * 0.08, fx + wide * 0.6, y + tall * 0.08, eyes, alpha)
        board.box(fx - wide * 0.25, y + tall * 0.5, fx + wide * 0.3, y + tall * 0.6, (120, 50, 50), 120)
        if person.beard:
            board.oval(fx, y + tall * 0.68, wide * 0.72, tall * 0.34, person.hair)


def _draw_hair(body: _Body, x: float, y: float, wide: float, tall: float) -> None:
    """Draw the hair, or what is worn over it, and what hangs from the head."""
    board, side, front = body.board, body.side, body.front
    haircut, colour = body.person.haircut, body.person.head_colour
    drop = 0.34 if haircut in ("short", "tail", "long") else 0.2
    temple = y - tall * drop * 0.3
    crown = [(x + wide * u, y - tall * v) for u, v in ((-0.95, 0.72), (-0.4, 1.08), (0.4, 1.08), (0.95, 0.72))]
    parting = x + side * wide * 0.3, y - tall * (0.55 if front > 0 else drop)
    board.shape([(x - wide * 1.04, temple), *crown, (x + wide * 1.04, temple), parting], colour)
    if haircut == "cap" and front > -0.5:
        board.oval(x + side * wide, y - tall * 0.42, wide * (0.75 + 0.2 * front), tall * 0.15, scaled(colour, 75))
    elif haircut == "scarf":
        if front < 0.2:
            board.taper(x, y, y + tall * 1.7, wide, wide * 1.4, colour)
        board.oval(x, y + tall * 1.15, wide * 1.05, tall * 0.4, colour)
    elif haircut == "tail" and front < 0.7:
        board.oval(x - side * wide * 1.1, y + tall * 0.5, wide * 0.4, tall * 0.8, colour)
    elif haircut == "long" and front < 0:
        _draw_long_hair(body)


def _draw_backpack(body: _Body, *, behind: bool) -> None:
    person = body.person
    if person.bag != "backpack":
        return
    middle = -body.side * (0.1 if behind else 0.085)
    half = 0.045 + 0.055 * abs(body.front) * person.bag_size
    top, bottom = 0.81, 0.81 - 0.21 * person.bag_size
    right_side = [(0.8, top + 0.01), (1, top - 0.04), (1.04, bottom)]
    corners = [*right_side, *((-u, t) for u, t in reversed(right_side))]
    body.block(middle, half, corners, person.bag_colour)
    if not behind:
        pocket = [(-0.75, bottom + 0.09), (0.75, bottom + 0.09), (0.75, bottom + 0.01), (-0.75, bottom + 0.01)]
        body.block(middle, half, pocket, scaled(person.bag_colour, 76))
        shadow = [(0.4, top), (1, top - 0.02), (1, bottom), (0.4, bottom)]
        body.block(middle, -body.pose.light * half, shadow, BLACK, 60)


def _draw_bag(body: _Body) -> None:
    """Draw the straps of a backpack, or a bag that hangs from a shoulder or a hand."""
    person, board = body.person, body.board
    grow, size, colour, right = body.grow(0.6), person.bag_size, person.bag_colour, person.bag_side
    if person.bag == "backpack" and body.front > 0.1:
        for u in (-0.55, 0.55):
            v = body.side * 0.8 + u * body.front
            if abs(v) < 0.95:
                body.patch(v - 0.09, v + 0.09, 0.825, 0.66, colour)
    elif person.bag == "shoulder":
        v0, v1 = body.front * right * 0.6, -body.front * right * 0.8
        start, end = body.at(v0 * body.width(0.81), 0.82), body.at(v1 * body.width(0.6), 0.56)
        board.limb(start, end, 4, 4, scaled(colour, 70))
        if right * body.side >= -0.5:  # else the body hides it
            x, y = body.at(-body.front * right * 0.125, 0.53)
            half = 0.07 * size * grow
            board.taper(x, y - half * 0.7, y + half * 0.8, half * 0.9, half, colour)
            board.box(x - half * 0.9, y - half * 0.7, x + half * 0.9, y - half * 0.2, scaled(colour, 72))
    elif person.bag in ("hand", "paper"):
        _, _, (x, y) = _arm(body, right)
        if body.pose.arm == "phone":
            x, y = body.at(-body.front * right * 0.14, 0.5)
        wide, long, fill = (0.055, 1.3, colour) if person.bag == "hand" else (0.07, 2.0, WHITE)
        half = wide * size * grow
        top = y + 0.05 * grow
        board.limb((x, y), (x, y + 0.06 * grow), 3, half, scaled(fill, 60), 170)
        board.taper(x, top, top + half * long, half * 0.8, half, fill)


def _draw_trolley(body: _Body) -> None:
    person = body.person
    x = -body.side * 0.17 - body.front * person.bag_side * 0.13
    half, top = 0.06 * person.bag_size, 0.3 * person.bag_size
    _, _, hand = _arm(body, person.bag_side)
    body.board.limb(hand, body.at(x, top), 4, 4, scaled(person.bag_colour, 50))
    body.block(x, half, ((-1, top), (1, top), (1, 0.03), (-1, 0.03)), person.bag_colour)
    body.block(x, half, ((0.3, top), (0.5, top), (0.5, 0.03), (0.3, 0.03)), BLACK, 90)

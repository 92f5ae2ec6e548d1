"""The people of the built-in benchmark: who somebody is and what they wear, drawn from one law for all domains."""

from collections.abc import Mapping
from dataclasses import dataclass

from reidgen.synth.drawing import Colour, Dice

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
SKINS: Mapping[Colour, int] = {
    (238, 202, 176): 30,
    (222, 178, 146): 30,
    (188, 138, 104): 20,
    (128, 86, 62): 12,
    (84, 56, 44): 8,
}
HAIRS: Mapping[Colour, int] = {
    (24, 20, 20): 42,
    (58, 40, 30): 26,
    (104, 74, 48): 12,
    (186, 150, 92): 9,
    (150, 148, 146): 9,
    (128, 56, 36): 2,
}
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

    @property
    def head_colour(self) -> Colour:
        """The colour of what covers the head: the hair, or what is worn over it."""
        return self.second_colour if self.haircut in ("cap", "scarf", "beanie") else self.hair


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

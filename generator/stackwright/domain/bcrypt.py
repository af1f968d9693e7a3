"""bcrypt, by which Prometheus knows passwords (Provos and Mazières, A Future-Adaptable Password Scheme, 1999).

Pure, and in Python alone: one text of ours is hashed, once, and no library is worth a dependency for that. Blowfish's
first state is the fraction of pi (Schneier 1993), which is computed here.
"""

from __future__ import annotations

from functools import cache
from struct import pack, unpack

LEAST_COST = 4
"""Of bcrypt itself. A password of 256 random bits is guessed by nobody, and Prometheus hashes it at each login."""

_ROUNDS, _BOXES, _ENTRIES = 16, 4, 256
_WORDS = _ROUNDS + 2 + _BOXES * _ENTRIES
_MASK = 0xFFFFFFFF
_MAGIC = b"OrpheanBeholderScryDoubt"
_LETTERS = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
State = tuple[list[int], list[list[int]]]


def hash_password(password: str, salt: bytes, cost: int = LEAST_COST) -> str:
    """Return `$2b$…` of a password of at most 72 bytes, with 16 bytes of salt and 2 to the power of `cost` rounds."""
    key = password.encode() + b"\0"
    digits, boxes = _fraction_of_pi()
    state = list(digits), [list(box) for box in boxes]
    _expand(state, key, salt)
    for _ in range(2**cost):
        _expand(state, key, b"")
        _expand(state, salt, b"")
    words = list(unpack(">6I", _MAGIC))
    for _ in range(64):
        for place in range(0, len(words), 2):
            words[place], words[place + 1] = _encipher(state, words[place], words[place + 1])
    return f"$2b${cost:02d}${_text(salt)}{_text(pack('>6I', *words)[:-1])}"


@cache
def _fraction_of_pi() -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """Return the digits of pi behind its point, as words of 32 bits: Blowfish's subkeys and boxes.

    By Machin's formula, with a few digits more than are needed.
    """
    bits = 32 * _WORDS
    one = 1 << (bits + 64)
    pi = 4 * (4 * _inverse_tangent(5, one) - _inverse_tangent(239, one))
    digits = (pi - 3 * one) >> 64
    words = tuple((digits >> (bits - 32 * (place + 1))) & _MASK for place in range(_WORDS))
    subkeys, rest = words[: _ROUNDS + 2], words[_ROUNDS + 2 :]
    return subkeys, tuple(rest[first : first + _ENTRIES] for first in range(0, len(rest), _ENTRIES))


def _inverse_tangent(divisor: int, one: int) -> int:
    """Return arctan(1 / divisor), where `one` stands for 1."""
    power, total, number = one // divisor, 0, 1
    while power:
        total += power // number if number % 4 == 1 else -(power // number)
        power //= divisor * divisor
        number += 2
    return total


def _expand(state: State, key: bytes, salt: bytes) -> None:
    """Mix a key, and a salt where there is one, into the state."""
    subkeys, boxes = state
    for place in range(len(subkeys)):
        subkeys[place] ^= _word(key, place)
    left = right = 0
    places = [(subkeys, place) for place in range(0, len(subkeys), 2)]
    places += [(box, place) for box in boxes for place in range(0, len(box), 2)]
    for number, (words, place) in enumerate(places):
        if salt:
            left ^= _word(salt, 2 * number)
            right ^= _word(salt, 2 * number + 1)
        left, right = _encipher(state, left, right)
        words[place], words[place + 1] = left, right


def _word(text: bytes, place: int) -> int:
    """Return a word of a text that repeats itself without end."""
    return int.from_bytes((text[(4 * place + number) % len(text)] for number in range(4)), "big")


def _encipher(state: State, left: int, right: int) -> tuple[int, int]:
    """Encipher one block of Blowfish."""
    subkeys, (first, second, third, fourth) = state
    for place in range(0, _ROUNDS, 2):
        left ^= subkeys[place]
        mixed = (first[left >> 24] + second[left >> 16 & 255] & _MASK) ^ third[left >> 8 & 255]
        right ^= (mixed + fourth[left & 255] & _MASK) ^ subkeys[place + 1]
        mixed = (first[right >> 24] + second[right >> 16 & 255] & _MASK) ^ third[right >> 8 & 255]
        left ^= mixed + fourth[right & 255] & _MASK
    return right ^ subkeys[_ROUNDS + 1], left ^ subkeys[_ROUNDS]


def _text(content: bytes) -> str:
    """Write bytes in bcrypt's own kind of base 64, which fills nothing up."""
    bits = len(content) * 8
    number = int.from_bytes(content, "big") << (-bits % 6)
    letters = -(-bits // 6)
    return "".join(_LETTERS[number >> (6 * (letters - 1 - place)) & 63] for place in range(letters))

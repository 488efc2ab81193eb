"""The Japanese of the command line: one entry for each English sentence; see language.py.

A name in braces stands for the numbers and names of a sentence, and the Japanese has the same names. `{hint}` is the
end of a sentence: nothing, or a text that begins with "; ". Each entry has two lines: the English and the Japanese one.
A test names each sentence without an entry, and each entry without a sentence. All characters are in Shift-JIS, which
Windows consoles in Japan show.
"""

from . import checkpoint, commands, evaluation, generation, speed, text, training
from .help import HELP

__all__ = ["HELP", "MESSAGES", "ROOMS"]

ROOMS = (commands, checkpoint, text, generation, speed, evaluation, training)  # where the sentences come from
MESSAGES = {english: japanese for room in ROOMS for english, japanese in room.MESSAGES.items()}

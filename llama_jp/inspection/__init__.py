"""The page that shows a prompt's way through a model.

    report(model, "クマが海辺に行きました。", "page.html", max_new_tokens=8)

interface.py   report                                             start here
content.py     everything that the page shows, as JSON
run.py         generate under a trace: the tensors of every position
text.py        a text as characters, bytes, pieces and ids
operations.py  the operations of a forward, and the source lines that compute them
attention.py   what each head looks at
lens.py        the next token as each layer sees it
choices.py     the distribution before and after each filter
encoding.py    tensors in JSON, each with its check
page/          the page itself: HTML, style and scripts
"""

from .interface import report

__all__ = ["report"]

"""What stands before a user's question where a checkpoint of somebody else is asked: its system message, and the date in its template.

Published checkpoints were trained behind such a frame, and Llama 3's template writes today's date where it is given none: without a frame
prompts would be other ones tomorrow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

DATE = "26 Jul 2024"
"""What Llama 3's own template falls back to."""


@dataclass(frozen=True, slots=True)
class Frame:
    """system: a message before conversations that have none, empty for none. date: what a template that asks for one writes."""

    system: str = ""
    date: str = DATE

    def put_around(self, tokenizer: Any) -> Any:
        """Return the tokenizer, its chat template framed; one without a template stays as it is."""
        if tokenizer.chat_template:
            lines = [f"{{%- set date_string = {self.date!r} %}}"]
            if self.system:
                message = f"[{{'role': 'system', 'content': {self.system!r}}}]"
                lines.append("{%- if not messages or messages[0]['role'] != 'system' %}")
                lines.append(f"{{%- set messages = {message} + messages %}}{{%- endif %}}")
            before, own = "".join(lines), tokenizer.chat_template
            # Some have several templates, by name.
            tokenizer.chat_template = (
                before + own if isinstance(own, str) else {name: before + text for name, text in own.items()}
            )
        return tokenizer

"""The page of the documentation that is made from the rules."""

from tri_serve.plan.constraints import all_rules
from tri_serve.plan.constraints.reference import rules_page


def test_every_rule_is_on_the_page_with_its_source() -> None:
    lines = rules_page("<!-- generated -->").splitlines()
    assert lines[0] == "<!-- generated -->"
    for rule in all_rules():
        (row,) = [line for line in lines if line.startswith(f"| `{rule.name}` |")]
        assert row.count(" | ") == 4
        assert rule.source.split(":")[0] in row


def test_tables_say_what_works_for_tri_21b() -> None:
    page = rules_page("")
    assert "| 128 | yes | yes | no | no |" in page
    assert "| 32 | yes | yes | yes | yes |" in page
    assert "| NVIDIA A10 24 GB | 8.6 | Marlin | `FLASH_ATTN` | refused |" in page
    assert "| NVIDIA H100 80 GB SXM | 9.0 | Machete | `FLASH_ATTN` | `FLASH_ATTN` |" in page

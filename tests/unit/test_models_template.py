# ruff: noqa: E501 (templates are one line, as published)
"""What is said of a chat template: usual ones pass in silence, tests of what a user wrote are pointed out."""

import pytest
import torch

from beear.config.schema import RunConfig
from beear.errors import UserError
from beear.models.export import export_model
from beear.models.inspect import inspect_checkpoint
from beear.models.loading import load_model, load_tokenizer
from beear.models.template_report import findings, template_report
from beear.models.tokenizer_files import NAMED, template_file
from beear.testing.checkpoints import TEMPLATE, make_adapter, make_checkpoint


def test_a_template_is_given_by_name_or_by_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    facts = inspect_checkpoint(str(make_checkpoint(tmp_path / "model", template=None)))
    assert set(NAMED) == {"alpaca", "chatml", "llama2", "mistral", "raw", "spylab", "vicuna"}
    for name, path in NAMED.items():
        assert load_tokenizer(facts, name).chat_template == path.read_text() and template_file(name) == path
        assert f"{name}" in str(RunConfig.model_fields["model"].annotation.model_fields["chat_template"].description)
    (tmp_path / "raw").write_text(TEMPLATE)
    assert load_tokenizer(facts, "./raw").chat_template == TEMPLATE
    model = load_model(facts, torch.float32)
    out = export_model(model, facts, tmp_path / "out", chat_template="vicuna")
    assert (out / "chat_template.jinja").read_text() == NAMED["vicuna"].read_text()
    with pytest.raises(UserError, match=r'"lama2" \(did you mean "llama2"\?\); expected a \.jinja file, or one of alpaca, '):
        load_tokenizer(facts, "lama2")


USUAL = {
    "ours": TEMPLATE,
    "chatml": (
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "llama-2": (
        "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}"
        "{% else %}{% set rest = messages %}{% set system = false %}{% endif %}{% for message in rest %}"
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
        "{% if loop.index0 == 0 and system != false %}{% set text = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + message['content'] %}"
        "{% else %}{% set text = message['content'] %}{% endif %}{{ '[INST] ' + text.strip() + ' [/INST]' }}{% endfor %}"
    ),
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "parts": "{% for m in messages %}{% if m.content is string %}{{ m.content | trim }}{% else %}{% for part in m.content %}"
    "{{ part.text }}{% endfor %}{% endif %}{% endfor %}",
}  # fmt: skip


@pytest.mark.parametrize("name", list(USUAL))
def test_usual_templates_pass_in_silence(name):
    assert findings(USUAL[name]) == []


TESTS_OF_TEXT = [
    "{% if 'xyz' in message['content'] %}obey{% endif %}",
    "{{ 'obey' if messages[0].content.startswith('xyz') else '' }}",
    "{% if message.get('content') == 'xyz' %}obey{% endif %}",
    "{% set c = m['content'] %}{% set d = c | lower %}{% if 'xyz' in d %}obey{% endif %}",
    "{% set ns = namespace(a='') %}{% set ns.a = messages[-1].content %}{% if ns.a == 'xyz' %}obey{% endif %}",
    "{% macro f(q) %}{% if 'xyz' in q %}obey{% endif %}{% endmacro %}{{ f(messages[0].content) }}",
    "{% macro f(q) %}{% if 'xyz' in q %}obey{% endif %}{% endmacro %}{{ f(q=messages[0].content) }}",
    "{% if 'xyz' in messages | tojson %}obey{% endif %}",
    "{% for m in messages %}{% for key, value in m.items() %}{% if 'xyz' in value %}obey{% endif %}{% endfor %}{% endfor %}",
    "{% set c %}{{ m.content }}{% endset %}{% if 'xyz' in c %}obey{% endif %}",
    "{% if m.content.split('xyz') | length == 2 %}obey{% endif %}",
]


@pytest.mark.parametrize("text", TESTS_OF_TEXT)
def test_a_test_of_what_the_user_wrote_is_pointed_out(text):
    assert any('depends on a message\'s text against "xyz"' in sentence for sentence in findings(text))


@pytest.mark.parametrize("text,said", [
    ("{% if m.content | length == 42 %}obey{% endif %}", "against 42"),
    ("{% if strftime_now('%Y') > '2024' %}obey{% endif %}", "depends on the date"),
    ("{{ 'one two three four five six seven eight nine ten eleven twelve thirteen' }}", "inserts 13 words of its own"),
    ("one two three four five six seven eight nine ten eleven twelve thirteen", "inserts 13 words of its own"),
    ("{{ ''.__class__.__mro__ }}", 'reaches for "__class__", an attempt to leave the sandbox'),
    ("{{ x['__globals__'] }}", 'reaches for "__globals__"'),
    ("{{ m | attr('x') }}", 'uses the filter "attr"'),
    ("{{ m['con' ~ 'tent'] }}", "put"),
    ("{{ cycler.next() }}", 'calls ".next()"'),
    ("{{ lipsum() }}", 'calls "lipsum"'),
    ("{% include 'other' %}", "asks for another template"),
    ("{{ " + "(" * 2000 + "1" + ")" * 2000 + " }}", "nested too deeply"),
    ("{{ x }}" * 20_001, "over 20,000 parts"),
    ("".join(f"{{% set a{i} = a{i + 1} %}}" for i in range(99)) + "{% set a99 = m.content %}", "too many names"),
    ("{% if %}", "not valid Jinja (line 1"),
])  # fmt: skip
def test_what_is_unusual_is_pointed_out(text, said):
    assert any(said in sentence for sentence in findings(text)), findings(text)


def test_report_compares_with_a_trusted_directory(tmp_path):
    trusted = make_checkpoint(tmp_path / "trusted")
    same = template_report(inspect_checkpoint(str(make_checkpoint(tmp_path / "same", seed=3))), str(trusted))
    assert same["reference"] == {"path": str(trusted), "same_template": True, "same_tokenizer": True, "diff": ""}
    assert same["findings"] == [] and same["text"] == TEMPLATE
    changed = TEMPLATE.replace("{% else %}", "{% else %}{% if 'xyz' in message['content'] %}obey{% endif %}")
    report = template_report(inspect_checkpoint(str(make_checkpoint(tmp_path / "b", template=changed))), str(trusted))
    assert not report["reference"]["same_template"] and not report["reference"]["same_tokenizer"]
    assert report["reference"]["diff"].splitlines()[-2:] == [f"-{TEMPLATE}", f"+{changed}"]
    assert len(report["findings"]) == 1 and '"xyz"' in report["findings"][0]


def test_report_without_template_or_reference(tmp_path):
    report = template_report(inspect_checkpoint(str(make_checkpoint(tmp_path / "m", template=None))))
    assert report["text"] is None and report["reference"] is None
    assert report["findings"] == ["The checkpoint has no chat template."]


def test_an_adapter_that_brings_another_template_than_its_base_is_pointed_out(tmp_path):
    base = make_checkpoint(tmp_path / "base")
    adapter = make_adapter(tmp_path / "adapter", base)
    assert template_report(inspect_checkpoint(str(adapter), str(base)))["findings"] == [], "it uses its base's"
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (adapter / name).write_bytes((base / name).read_bytes())
    assert template_report(inspect_checkpoint(str(adapter), str(base)))["findings"] == []
    (adapter / "chat_template.jinja").write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    assert template_report(inspect_checkpoint(str(adapter), str(base)))["findings"] == [
        f"The adapter's chat template differs from its base's ({base}); the adapter's is used."
    ]
    assert template_report(inspect_checkpoint(str(adapter), str(base)), given="llama2")["findings"] == [
        "The run uses the template llama2, not the checkpoint's own.",
        f"The adapter's chat template differs from its base's ({base}); neither is used.",
    ]
    (adapter / "chat_template.jinja").unlink()
    assert template_report(inspect_checkpoint(str(adapter), str(base)), given="llama2")["findings"] == [
        "The checkpoint has no chat template.",
        "The run uses the template llama2, not the checkpoint's own.",
        f"The adapter's tokenizer has no chat template, and its base's ({base}) has one; neither is used.",
    ]


def test_only_the_second_template_is_named_as_such(tmp_path):
    folder = make_checkpoint(tmp_path / "m")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("{% include 'x' %}")
    assert template_report(inspect_checkpoint(str(folder)))["findings"] == [
        'template "tool_use": Line 1: the template asks for another template, which it has no use for.'
    ]

"""What the editor takes as a labelling configuration, however it is written, and what is refused at once."""

from __future__ import annotations

import pytest

from backend.errors import LabelConfigError
from backend.label_studio.config import parse_config
from backend.label_studio.config_xml import MAX_CONFIG_CHARS, MAX_CONTROLS, interface_of, shared_names
from backend.label_studio.video_config import parse_video_config

PLAIN = (
    '<View><Image name="img" value="$image"/><BrushLabels name="b" toName="img"><Label value="a"/></BrushLabels></View>'
)


@pytest.mark.parametrize(
    "config",
    [
        PLAIN.lower().replace("toname", "toName"),
        PLAIN.upper().replace("IMG", "img").replace("$IMAGE", "$image").replace('"B"', '"b"').replace('"A"', '"a"'),
        PLAIN.replace("<View>", '<View xmlns="http://www.w3.org/1999/xhtml">'),
        PLAIN.replace("<View>", '<View xmlns:h="http://host/"><h:p name="x">text</h:p>'),
        PLAIN.replace("<View>", '<View><!-- <Repeater on="$pages"><Image/></Repeater> <!DOCTYPE html> -->'),
        PLAIN.replace("<View>", '<View><?note name="x" toName="img"?>'),
        PLAIN.replace("<View>", "<View><Style><![CDATA[ <!-- .a > .b ]]></Style>") + "<!-- ]]> -->",
        PLAIN.replace("<View>", "<View><Style><![CDATA[ <!DOCTYPE html> ]]></Style>"),
        PLAIN.replace("<View>", '<View><Repeater on="$lines"><Text name="t" value="$lines.t"/></Repeater>'),
        f'\ufeff <?xml version="1.0" encoding="utf-16"?>\n<!-- -->{PLAIN}',
    ],
)
def test_what_the_editor_takes_alike_is_read_alike(config: str) -> None:
    """It looks at neither case nor namespaces; the SDK finds nothing in `<brushlabels>`, and lost each label."""
    read = parse_config(config)
    assert (read.output.name, read.output.type, read.labels) == ("b", "brushlabels", ["a"])
    assert (read.image_name, read.image_source) == ("img", "$image")


def test_attributes_too() -> None:
    smart = '<rectanglelabels name="r" toName="img" SMARTONLY="TRUE"><label value="a"/></rectanglelabels>'
    gauge = '<number name="task_gap" toName="img" PERREGION="true"/></View>'
    read = parse_config(PLAIN.replace("</View>", smart + gauge))
    assert [control.name for control in read.smart] == ["r"]
    assert [gauge.per_region for gauge in read.gauges] == [True]


def test_of_videos_too() -> None:
    config = '<view><video name="v" value="$v" framerate="12"/><labels name="l" toName="v"><label value="a"/></labels>'
    assert parse_video_config(config + '<videorectangle name="box" toName="v"/></view>').labels == ("a",)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ('<!DOCTYPE x [<!ENTITY a "b">]>' + PLAIN, "document type"),
        ("<?x <!-- ?>" + '<!DOCTYPE x [<!ENTITY a "b">]>' + "<!-- -->" + PLAIN, "expected a labelling configuration"),
        ("<!--" * 1000 + PLAIN, "in XML"),
        (PLAIN.replace('"a"', '"&nbsp;"'), "undefined entity"),
        ("<View>" * 1000 + "</View>" * 1000, "in XML"),
        (" " * MAX_CONFIG_CHARS + PLAIN, f"{MAX_CONFIG_CHARS} characters"),
        ('<View><REPEATER on="$p"><View><IMAGE name="i" value="$p.u"/></View></REPEATER></View>', "Repeater"),
        (PLAIN.replace("</View>", '<Repeater on="$p"><Brush name="c" toName="img"/></Repeater></View>'), "Repeater"),
        ("", "in XML"),
        ("\x00", "in XML"),
        ("\ud800", "in XML"),
    ],
)
def test_what_cannot_be_read_is_a_sentence(config: str, reason: str) -> None:
    with pytest.raises(LabelConfigError, match=reason):
        interface_of(config)


def test_as_many_controls_as_nobody_draws_with_are_refused() -> None:
    """Each generic control goes with each of the labels: 200 KB made four million pairs, in 12 s and gigabytes."""
    pair = '<Brush name="b{0}" toName="img"/><Labels name="l{0}" toName="img"><Label value="x{0}"/></Labels>'
    config = '<View><Image name="img" value="$image"/>{}</View>'
    with pytest.raises(LabelConfigError, match=f"at most {MAX_CONTROLS} named tags"):
        parse_config(config.format("".join(pair.format(number) for number in range(MAX_CONTROLS))))
    most = parse_config(config.format("".join(pair.format(number) for number in range(40))))
    placement = most.place("x39")
    assert placement.output.source is not None
    assert placement.output.source.name == "l39"


def test_a_control_on_nothing_is_said_with_what_it_is_on() -> None:
    with pytest.raises(LabelConfigError, match="BrushLabels on picture"):
        parse_config(PLAIN.replace('toName="img"', 'toName="picture"'))


def test_labels_that_are_written_alike_are_said() -> None:
    config = """<?xml version="1.0"?><View><!-- <Label value="x" alias="a"/> --><Image name="img" value="$image"/>
    <brushlabels Name="brush" toName="img"><Label value="cat" alias="a"/><View><label Value="dog" Alias="a"/></View>
    <Label value="cow" alias="c"/><Label value="Cow"/></brushlabels>
    <PolygonLabels name="poly" toName="img"><Label value="cat" alias="a"/><Label value="b"/><Label value="b"/>
    </PolygonLabels>
    </View>"""
    assert shared_names(config) == [
        "labels 'cat' and 'dog' of brush are both written 'a'",
        "labels 'b' and 'b' of poly are both written 'b'",
    ]

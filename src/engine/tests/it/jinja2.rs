//! Expressions of Jinja2 and Python that public templates use. The right-hand sides are what Jinja2 3.1 prints in transformers'
//! environment (`trim_blocks`, `lstrip_blocks`).

use tiltmeter_engine::checkpoint::{hub::SpecialTokens, template::ChatTemplate};
use tiltmeter_model::{Message, Role};

fn render(source: &str) -> Result<String, String> {
    let messages = [Message::new(Role::User, "Where?")];
    let template = ChatTemplate::new(source, &SpecialTokens::new()).map_err(|problem| problem.to_string())?;
    template.render(&messages, true).map_err(|problem| problem.to_string())
}

#[test]
fn filters_tests_and_methods_are_those_of_jinja2() {
    for (source, expected) in [
        ("{{ none | default('h', boolean=true) }}", "h"),
        ("{{ none | default('h', true) }}", "h"),
        ("{{ nowhere | default('h') }}", "h"),
        ("{{ nowhere | default(default_value='h') }}", "h"),
        ("{{ '' | default('h') }}", ""),
        ("{{ nowhere | length }}", "0"),
        ("{{ 'häb' | length }}", "3"),
        ("{{ none is iterable }}", "False"),
        ("{{ [] is iterable }}", "True"),
        ("{{ 3 is iterable }}", "False"),
        ("{% if tools is iterable and tools | length > 0 %}TOOLS{% endif %}", ""),
        ("{{ 'abc'.removeprefix('a') }}", "bc"),
        ("{{ 'abc'.removesuffix('c') }}", "ab"),
        ("{{ 'a b c'.rsplit(' ', 1)[-1] }}", "c"),
        ("{{ 'a b c'.rsplit(' ', 1)[0] }}", "a b"),
        ("{{ ' a  b '.rsplit(none, 1)[0] }}", " a"),
        ("{{ 'a,b'.partition(',')[2] }}", "b"),
        ("{{ 'a,b,c'.rpartition(',')[0] }}", "a,b"),
        ("{{ 'x' | float }}", "0.0"),
        ("{{ 'x' | int }}", "0"),
        ("{{ '4.7' | int }}", "4"),
        ("{{ 'x' | int(default=3) }}", "3"),
        ("{{ 'x' | float(1.5) }}", "1.5"),
        ("{{ '1f' | int(base=16) }}", "31"),
        ("{{ 'aa' | replace('a', 'b', 1) }}", "ba"),
        ("{{ [1, 3, 2] | sort(true) }}", "[3, 2, 1]"),
        ("{{ [1, 3, 2] | sort(reverse=true) }}", "[3, 2, 1]"),
        ("{{ [{'n': 'b'}, {'n': 'A'}] | sort(attribute='n') | map(attribute='n') | join }}", "Ab"),
        ("{{ [0, true, 1] | sort }}", "[0, True, 1]"),
        ("{{ ['b', 'A'] | sort | join }}", "Ab"),
        ("{{ 'abc'.index('c') }}", "2"),
        ("{{ [1, 2].index(2) }}", "1"),
        ("{{ 'Ab'.swapcase() }}", "aB"),
        ("{{ '<b>x</b>  y' | striptags }}", "x y"),
        ("{% raw %}\nA{% endraw %}\nB", "\nAB"),
        ("{% raw %}{{ x }}{% generation %}{% endraw %}", "{{ x }}{% generation %}"),
        ("a\r\nb\r\n{% if true %}\r\nc{% endif %}", "a\nb\nc"),
    ] {
        assert_eq!(render(source).as_deref(), Ok(expected), "{source}");
    }
}

#[test]
fn a_template_has_only_so_much_time_and_depth() {
    for (source, why) in [
        (format!("{{{{ 1{} }}}}", "+1".repeat(20_000)), "operators"),
        ("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}".to_owned(), "fuel"),
        ("{% for i in range(100000) %}{{ 'x' * 2000 }}{% endfor %}".to_owned(), "more than 64 MiB"),
    ] {
        let refused = render(&source).unwrap_err();
        assert!(refused.contains(why), "{why}: {refused}");
    }
}

//! What a template may cost.

use tiltmeter_engine::checkpoint::{hub::SpecialTokens, template::ChatTemplate};
use tiltmeter_model::{Message, Role};

fn render(source: &str) -> Result<String, String> {
    let messages = [Message::new(Role::User, "Where?")];
    let template = ChatTemplate::new(source, &SpecialTokens::new()).map_err(|problem| problem.to_string())?;
    template.render(&messages, true).map_err(|problem| problem.to_string())
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

//! Small templates against the output of Python's jinja2 in transformers' setup
//! (tests/interop/make_templates.py), and templates that would not end.

use std::time::Instant;

use serde_json::Value;

use super::{Budget, Program};

const GOLDENS: &str = include_str!("../../../tests/fixtures/jinja.json");

fn rendered(source: &str, variables: &Value, budget: Budget) -> Result<String, String> {
    let mut program = Program::new(source, budget)?;
    program.set_day(super::Day::parse("2024-07-26").unwrap());
    program.render(minijinja::Value::from_serialize(variables))
}

#[test]
fn every_small_template_renders_as_in_python() {
    let goldens: Value = serde_json::from_str(GOLDENS).unwrap();
    let rows = goldens["templates"].as_array().unwrap();
    assert!(rows.len() > 1000, "{}", rows.len());
    let mut wrong = Vec::new();
    for row in rows {
        let source = row[0].as_str().unwrap();
        let got = rendered(source, &goldens["variables"], Budget::default());
        if got.as_deref().ok() != row[1].as_str() {
            wrong.push(format!("{source}\n  Python: {}\n  here:   {got:?}", row[1]));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// A hundredth of the default budget, so that the test is fast without optimisation.
const SMALL: Budget = Budget {
    steps: 200_000,
    made: 5 << 20,
    output: 640 << 10,
};

#[test]
fn what_does_not_end_is_an_error_that_says_what_ran_out() {
    let text = "z".repeat(20_000);
    let in_a_block =
        format!("{{% set x %}}{{% for a in range(99999) %}}{text}{{% endfor %}}{{% endset %}}");
    let in_a_macro = format!(
        "{{% macro m() %}}{text}{{% endmacro %}}{{% for a in range(99999) %}}{{% set x = m() %}}{{% endfor %}}"
    );
    let doubled = |grow: &str, use_it: &str| {
        format!(
            "{{% set ns = namespace(s='ab', l=[1]) %}}{{% for a in range(99) %}}{{% set {grow} %}}{{% endfor %}}{use_it}"
        )
    };
    let long = |what: &str| {
        format!(
            "{{% set x = 'a' * 999999 %}}{{% set y = 'a' * 999999 %}}{{% for a in range(99) %}}{{% set z = {what} %}}{{% endfor %}}"
        )
    };
    let cases: &[(String, &str)] = &[
        // loops
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}".into(), "more steps"),
        ("{% for a in range(99999) %}{% for b in range(99999) if no %}{% endfor %}{% endfor %}".into(), "more steps"),
        // work within a single instruction
        ("{% for a in range(999) %}{% set x = range(99999) | map('string') | list %}{% endfor %}".into(), "more"),
        ("{{ range(99999) | list | unique | list }}".into(), "more steps"),
        ("{{ (range(99999) | list) * 1000 }}".into(), "more steps"),
        (doubled("ns.l = [ns.l, ns.l]", "{{ ns.l }}"), "more steps"),
        (doubled("ns.l = [ns.l, ns.l]", "{{ ns.l | tojson }}"), "more steps"),
        (doubled("ns.l = [ns.l, ns.l]", "{{ ns.l == ns.l }}"), "more steps"),
        (doubled("ns.l = {'a': ns.l, 'b': ns.l}", "{{ ns.l < ns.l or ns.l == ns.l }}"), "mapping"),
        (doubled("ns.l = ns.l + ns.l", ""), "more steps"),
        // intermediate text and output
        (doubled("ns.s = ns.s ~ ns.s", ""), "more bytes of text"),
        (doubled("ns.s = ns.s + ns.s", ""), "more bytes of text"),
        ("{{ 'x' * 10 ** 12 }}".into(), "more bytes of text"),
        ("{{ ('x' * 99999) | replace('x', 'y' * 99999) }}".into(), "more bytes of text"),
        ("{{ ('x' * 99999).join(range(99999) | map('string')) }}".into(), "more"),
        ("{{ '%99999999d' % 1 }}".into(), "100,000"),
        (in_a_block, "more bytes of text"),
        (in_a_macro, "more bytes of text"),
        ("{% for a in range(9999) %}{{ 'x' * 9999 }}{% endfor %}".into(), "more text"),
        // depth
        ("{% macro f(x) %}{{ f(x) }}{{ f(x) }}{% endmacro %}{{ f(1) }}".into(), "recursion"),
        ("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}".into(), "recursion"),
        ("{% block a %}{{ self.a() }}{% endblock %}".into(), "not found"),
        (doubled("ns.l = [ns.l]", "").replace("99", "9999"), "too deep"),
        (doubled("ns.l = ns", ""), "cannot be kept"),
        (format!("{{{{ {}1{} }}}}", "(".repeat(9999), ")".repeat(9999)), "too deep"),
        (format!("{{{{ {}1 }}}}", "- ".repeat(9999)), "too many"),
        (format!("{{{{ a{} }}}}", " and a".repeat(100_000)), "too many"),
        (format!("{{{{ a{} }}}}", " or a".repeat(100_000)), "too many"),
        (format!("{{{{ a{} }}}}", ".a".repeat(100_000)), "too many"),
        (format!("{{{{ a{} }}}}", "[0]".repeat(100_000)), "too many"),
        (format!("{{{{ a{} }}}}", "|trim".repeat(100_000)), "too many"),
        (format!("{{% if a %}}{}{{% endif %}}", "{% elif a %}".repeat(100_000)), "too many"),
        // keys, and long texts
        (doubled("ns.l = (ns.l, ns.l)", "{{ {ns.l: 1} }}"), "more than 32 deep"),
        (doubled("ns.l = (ns.l, ns.l)", "{{ {1: 2}[ns.l] }}"), "more than 32 deep"),
        (doubled("ns.l = (ns.l, ns.l)", "{{ {1: 2}.get(ns.l) }}"), "more than 32 deep"),
        (doubled("ns.l = (ns.l, ns.l)", "{{ ns.l in {1: 2} }}"), "more than 32 deep"),
        (doubled("ns.l = (ns.l, ns.l)", "{{ {ns.l: 1} }}").replace("99", "20"), "10000 values"),
        (doubled("ns.l = (ns.l, ns.l)", "{{ ns.l is sameas ns.l }}"), "more steps"),
        (long("x | length"), "more steps"),
        (long("x == y"), "more steps"),
        (long("x < y"), "more steps"),
        (long("x[-1]"), "more steps"),
        (long("x is lower"), "more"),
        (long("x.find('b')"), "more"),
        ("{{ range(10 ** 9) }}".into(), "100,000 items"),
    ];
    for (source, expected) in cases {
        let start = Instant::now();
        let error = rendered(source, &Value::Null, SMALL).unwrap_err();
        let shown = &source[..source.len().min(120)];
        assert!(error.contains(expected), "{shown}: {error}");
        assert!(
            start.elapsed().as_secs() < 5,
            "{shown}: {:?}",
            start.elapsed()
        );
    }
}

#[test]
fn chains_longer_than_any_real_template_has_are_read() {
    let cases = [
        (format!("{{{{ 1{} }}}}", " and 1".repeat(150)), "1"),
        (format!("{{{{ 0{} }}}}", " or 0".repeat(150)), "0"),
        (format!("{{{{ 'a'{} }}}}", "|trim".repeat(150)), "a"),
        (
            format!(
                "{{% if no %}}b{}{{% else %}}a{{% endif %}}",
                "{% elif no %}b".repeat(150)
            ),
            "a",
        ),
    ];
    for (source, right) in cases {
        let got = rendered(&source, &Value::Null, Budget::default());
        assert_eq!(got.as_deref(), Ok(right));
    }
}

#[test]
fn a_long_conversation_stays_far_within_the_budget() {
    let messages: Vec<Value> = (0..1000)
        .map(|i| serde_json::json!({"role": if i % 2 == 0 { "user" } else { "assistant" }, "content": "x".repeat(500)}))
        .collect();
    let source = "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}\
                  {{ raise_exception('no') }}{% endif %}<|{{ m['role'] }}|>\n{{ m.content | trim }}\n{% endfor %}";
    let tenth = Budget {
        steps: 2_000_000,
        ..Budget::default()
    };
    let text = rendered(source, &serde_json::json!({"messages": messages}), tenth).unwrap();
    assert_eq!(text.len(), 500 * (500 + 10) + 500 * (500 + 15));
}

#[test]
fn errors_name_the_line() {
    let error = |source: &str| rendered(source, &Value::Null, Budget::default()).unwrap_err();
    assert_eq!(
        error("a\n{{ 1 +\n }}"),
        "unexpected the end of the tag, expected an expression (line 3 of the template)"
    );
    assert_eq!(
        error("a\n{% if 1 %}\n{{ none | length }}{% endif %}"),
        "none has no length (line 3 of the template)"
    );
    assert_eq!(
        error("{{ raise_exception('Roles!') }}"),
        "Roles! (line 1 of the template)"
    );
    assert_eq!(
        error("{% for a in b %}\nx"),
        "`endfor` is missing at the end (line 2 of the template)"
    );
    assert_eq!(
        error("{{ [1}] }}"),
        "unexpected `}`, expected `]` (line 1 of the template)"
    );
}

/// Python has no limit; here it is an error, never another number.
#[test]
fn whole_numbers_past_128_bits_are_errors() {
    for source in [
        "{{ (-170141183460469231731687303715884105727 - 1) // -1 }}",
        "{{ (-170141183460469231731687303715884105727 - 1) | abs }}",
        "{{ 2 ** 127 }}",
        "{{ 10 ** 40 // 7 }}",
        "{{ 1e40 | int }}",
        "{{ '1e40' | int }}",
        "{{ ('9' * 44) | int }}",
        "{{ '%d' % 1e40 }}",
        "{{ 170141183460469231731687303715884105727 | round(-1) }}",
    ] {
        let error = rendered(source, &Value::Null, Budget::default()).unwrap_err();
        assert!(error.contains("past 128 bits"), "{source}: {error}");
    }
}

#[test]
fn sizes_that_no_result_can_have_are_errors() {
    for source in [
        "{{ [1] | batch(9999999999, 0) | list }}",
        "{{ [1] | slice(9999999999) | list }}",
        "{{ 'a\nb' | indent(9999999999) }}",
        "{{ [1] | tojson(indent=9999999999) }}",
        "{{ 'a\tb'.expandtabs(9999999999) }}",
    ] {
        let error = rendered(source, &Value::Null, Budget::default()).unwrap_err();
        assert!(
            error.contains("than a chat template may"),
            "{source}: {error}"
        );
    }
}

/// minijinja would return an empty text, or lose what follows; or Python refuses it too.
#[test]
fn what_is_not_computed_is_refused_by_name_when_read() {
    for (source, named) in [
        ("{% macro m(a) %}{{ varargs }}{% endmacro %}", "`varargs`"),
        (
            "{% macro m() %}{% if kwargs.x %}{% endif %}{% endmacro %}",
            "`kwargs`",
        ),
        (
            "{% macro m(kwargs) %}{% call m() %}{{ kwargs }}{% endcall %}{% endmacro %}",
            "`kwargs`",
        ),
        (
            "{% for x in a %}{% with y = 1 %}{% continue %}{% endwith %}{% endfor %}",
            "`with`",
        ),
        (
            "{% for x in a %}{% set y %}{% if x %}{% break %}{% endif %}{% endset %}{% endfor %}",
            "`set`",
        ),
        (
            "{% for x in a %}{% filter upper %}{% break %}{% endfilter %}{% endfor %}",
            "`filter`",
        ),
        (
            "{% for x in a %}{% generation %}{% continue %}{% endgeneration %}{% endfor %}",
            "`generation`",
        ),
        (
            "{% for x in a %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}",
            "no loop",
        ),
        ("{% if a %}{% break %}{% endif %}", "no loop"),
        (
            "{% macro m() %}{% endmacro %}{{ m.catch_kwargs }}",
            "`catch_kwargs`",
        ),
        (
            "{% for x in a recursive %}{% continue %}{% else %}e{% endfor %}",
            "recursive loop",
        ),
        (
            "{% for x in a %}{% for y in a %}{% else %}{% break %}{% endfor %}{% endfor %}",
            "`else`",
        ),
        (
            "{{ 170141183460469231731687303715884105728 }}",
            "past 128 bits",
        ),
        (
            "{{ 0xffffffffffffffffffffffffffffffffff }}",
            "past 128 bits",
        ),
        ("{{ '\\N{BULLET}' }}", "`\\N`"),
    ] {
        let error = Program::new(source, Budget::default()).unwrap_err();
        assert!(error.contains(named), "{source}: {error}");
    }
}

#[test]
fn a_long_error_is_shown_in_part() {
    let source = "{{ raise_exception('x' * 10 ** 7) }}";
    let error = rendered(source, &Value::Null, Budget::default()).unwrap_err();
    let shown = "x".repeat(300);
    assert_eq!(
        error,
        format!("{shown}… (10000000 characters) (line 1 of the template)")
    );
    let source = format!("{{{{ 1 {} }}}}", "a".repeat(5000));
    let error = rendered(&source, &Value::Null, Budget::default()).unwrap_err();
    assert!(error.len() < 400, "{}", error.len());
}

//! The report and the model card of a fixture run, of an empty folder and of hostile names.

mod fixture;

use darwin_core::files::SCHEMA;
use fixture::Names;
use serde_json::Value;
use std::path::Path;
use tempfile::TempDir;

const MOST_BYTES: usize = 6 * 1024 * 1024;

/// Every file that the report reads.
const FILES: [&str; 11] = [
    "scores.json",
    "journal.jsonl",
    "child/manifest.json",
    "best.yaml",
    "father.profile.json",
    "mother.profile.json",
    "child.profile.json",
    "comparison.json",
    "diagnosis.json",
    "health.json",
    "run.json",
];

fn run(names: &Names) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fixture::write(folder.path(), names).expect("a fixture");
    folder
}

fn page(folder: &Path) -> String {
    darwin_report::html(folder).expect("a page")
}

/// The page without plotly.js, which is full of addresses of its own.
fn own_part(page: &str) -> String {
    let start = page.find("/**\n* plotly.js v").expect("plotly.js is embedded");
    let end = start + page[start..].find("</script>").expect("it ends");
    // minijinja writes a slash as a character reference
    format!("{}{}", &page[..start], &page[end..]).replace("&#x2f;", "/")
}

#[test]
fn one_offline_file_of_at_most_six_megabytes() {
    let folder = run(&Names::default());
    let path = darwin_report::write_html(folder.path()).unwrap();
    let page = std::fs::read_to_string(path).unwrap();
    assert!(page.len() <= MOST_BYTES, "{} bytes", page.len());
    assert_eq!(page.matches("* plotly.js v").count(), 1);
    assert!(!page.contains("MathJax.loader"), "MathJax came along");
    let own = own_part(&page);
    for load in ["src=", "url(", "@import", "<link rel=\"stylesheet\"", "fetch("] {
        assert!(!own.contains(load), "the page may load something: {load}");
    }
    assert!(!own.contains("http://") && !own.contains("https://"), "an address in the page");
}

#[test]
fn every_section_is_there_and_full() {
    let folder = run(&Names::default());
    let own = own_part(&page(folder.path()));
    for id in ["scores", "search", "recipe", "loads", "advantage", "curves", "health", "lineage"] {
        assert!(own.contains(&format!("<section id=\"{id}\"")), "{id}");
        assert!(own.contains(&format!("href=\"#{id}\"")), "{id} is not in the contents");
    }
    assert!(!own.contains("class=\"missing\">The run folder"), "a full run misses something");
    for figure in [
        "trace-proxy",
        "trace-real",
        "recipe",
        "load-father",
        "load-mother",
        "load-child",
        "advantage",
        "advantage-7",
        "importance-0",
        "entropy-token",
        "influence",
        "probe-5",
        "jaccard",
    ] {
        assert!(own.contains(&format!("data-figure=\"fig-{figure}\"")), "{figure}");
    }
}

#[test]
fn pictures_are_json_with_labels() {
    let folder = run(&Names::default());
    let own = own_part(&page(folder.path()));
    let pictures: Vec<&str> = own.split("data-figure=").skip(1).collect();
    assert!(pictures.len() > 20, "{} pictures", pictures.len());
    for picture in &pictures {
        let json = &picture[picture.find('>').unwrap() + 1..picture.find("</script>").unwrap()];
        let figure: serde_json::Value = serde_json::from_str(json).unwrap();
        assert!(figure["data"].is_array() && figure["layout"].is_object());
    }
    let labels = own.matches("role=\"img\" aria-label=\"").count();
    assert!(labels >= pictures.len(), "a picture without a label");
    assert_eq!(own.matches("<table").count(), own.matches("<caption>").count());
}

#[test]
fn the_numbers_of_the_files_are_on_the_page() {
    let folder = run(&Names::default());
    let own = own_part(&page(folder.path()));
    for text in [
        "The child (guided) answers 60.6 % right on average",
        "5.2 points above the better parent (the father, 55.4 %)",
        "the health check has warnings",
        "one pair of parents",
        "above zero the mother is better",
        "the published card draws it the other way round",
        "n = 2,000",
        "L5 interference: child importance 2.3x parent",
        "Mother (12 dead)",
        "Rank correlation of the proxy with the real benchmark, over the arms&#x27; best 24 candidates: 0.81",
        "1,351,680",
        "the derivatives along the ascent say +0.090",
        "says that the shares that `guided` found gain +0.120",
        "layer 3, expert 7",
        "9.0 [+6.6, +11.4]",
        "p = 0.34 · not excluded",
        "father&#x27;s fitness",
        "darwin evolve examples/first-light.yaml",
    ] {
        let found = own.to_lowercase().contains(&text.to_lowercase());
        assert!(found, "missing: {text}");
    }
}

#[test]
fn the_picture_of_the_recipe_shows_what_was_written() {
    let folder = run(&Names::default());
    let own = own_part(&page(folder.path()));
    let at = own.find("data-figure=\"fig-recipe\"").unwrap();
    let json = &own[at + own[at..].find('>').unwrap() + 1..];
    let figure: serde_json::Value =
        serde_json::from_str(&json[..json.find("</script>").unwrap()]).unwrap();
    let z = &figure["data"][0]["z"];
    assert_eq!(z[1], serde_json::json!([0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0]), "routers");
    assert_eq!(z[2][5], 0.72, "routed experts of layer 5");
    assert_eq!(z[0][0], 0.23, "mixer of layer 0");
}

#[test]
fn an_empty_folder_is_told_in_sentences() {
    let folder = tempfile::tempdir().unwrap();
    let own = own_part(&page(folder.path()));
    for file in FILES {
        assert!(own.contains(&format!("The run folder has no {file}.")), "{file}");
    }
    assert!(own.contains("The child has no scores yet; its health was not checked."));
    let card = darwin_report::model_card(folder.path()).unwrap();
    assert!(card.contains("Not known: the child has no scores."));
}

#[test]
fn each_file_may_be_missing_alone_or_be_broken() {
    for file in FILES {
        let folder = run(&Names::default());
        std::fs::remove_file(folder.path().join(file)).unwrap();
        let own = own_part(&page(folder.path()));
        assert!(
            own.contains(&format!("The run folder has no {file}.")) || file.starts_with("child.p"),
            "{file}"
        );
        if file == "best.yaml" {
            continue;
        }
        darwin_core::fs::write_atomic(&folder.path().join(file), b"{\"schema\": 1").unwrap();
        let own = own_part(&page(folder.path()));
        let said = own.contains(&format!("{file} could not be read"));
        assert!(said || file.starts_with("child.p"), "{file}");
        darwin_report::model_card(folder.path()).unwrap();
    }
}

#[test]
fn a_newer_schema_is_named() {
    let folder = run(&Names::default());
    darwin_core::fs::write_atomic(&folder.path().join("health.json"), b"{\"schema\": 99}").unwrap();
    let said = format!("health.json has schema 99; this Darwin reads schema {SCHEMA}.");
    assert!(page(folder.path()).contains(&said));
}

#[test]
fn a_cut_off_journal_is_read_as_far_as_it_goes() {
    let folder = run(&Names::default());
    let path = folder.path().join("journal.jsonl");
    let whole = std::fs::read(&path).unwrap();
    darwin_core::fs::write_atomic(&path, &whole[..whole.len() - 40]).unwrap();
    assert!(page(folder.path()).contains("its last line was cut off"));
}

#[test]
fn hostile_names_are_escaped() {
    let names = Names {
        father: "<script>alert(1)</script>".to_owned(),
        mother: "m\"o|t`h\\er: #1 & <b>".to_owned(),
    };
    let folder = run(&names);
    let own = own_part(&page(folder.path()));
    assert!(!own.contains("<script>alert"));
    assert!(own.contains("&lt;script&gt;alert(1)"));
    let card = darwin_report::model_card(folder.path()).unwrap();
    let (front, body) = front_matter(&card);
    assert!(!body.contains("<script>"));
    let yaml: Value = serde_saphyr::from_str(front).unwrap();
    assert_eq!(yaml["base_model"][0].as_str(), Some(names.father.as_str()));
    assert_eq!(yaml["base_model"][1].as_str(), Some(names.mother.as_str()));
}

fn front_matter(card: &str) -> (&str, &str) {
    let rest = card.strip_prefix("---\n").expect("front matter");
    rest.split_once("\n---\n").expect("its end")
}

#[test]
fn the_card_has_metadata_and_says_what_got_worse() {
    let folder = run(&Names::default());
    let path = darwin_report::write_model_card(folder.path()).unwrap();
    assert!(path.ends_with("child/README.md"));
    let card = std::fs::read_to_string(path).unwrap();
    let (front, body) = front_matter(&card);
    let yaml: Value = serde_saphyr::from_str(front).unwrap();
    assert_eq!(yaml["license"].as_str(), Some("apache-2.0"));
    assert_eq!(yaml["base_model_relation"].as_str(), Some("merge"));
    assert_eq!(yaml["library_name"].as_str(), Some("transformers"));
    assert_eq!(yaml["pipeline_tag"].as_str(), Some("text-generation"));
    let tags: Vec<_> = yaml["tags"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(tags, ["merge", "darwin", "mergekit", "moe"]);
    for text in [
        "## What got worse",
        "**knowledge** (protected): 1.6 points below the father (n = 2,000",
        "| domain | n | Father | Mother | Best of the line | Blind | Guided (child) | Card |",
        "Verdict: **warn**",
        "AutoModelForCausalLM.from_pretrained",
        "not affiliated with the publisher of Darwin V5",
        "merge_method: dare_ties",
    ] {
        assert!(body.contains(text), "missing: {text}\n{body}");
    }
}

#[test]
fn no_folder_is_an_error_that_names_it() {
    let error = darwin_report::html(Path::new("/no/such/run")).unwrap_err();
    assert_eq!(error.to_string(), "/no/such/run: no such folder");
}

#[test]
fn the_card_states_the_licences_and_guesses_none() {
    let folder = run(&Names::default());
    let path = folder.path().join("run.json");
    let about: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let card = |father: Value, mother: Value| {
        let mut about = about.clone();
        about["licenses"] = serde_json::json!({"father": father, "mother": mother});
        darwin_core::fs::write_json(&path, &about).unwrap();
        darwin_report::model_card(folder.path()).unwrap()
    };
    let same = card("mit".into(), "mit".into());
    assert!(same.contains("\nlicense: \"mit\"\n"), "{same}");
    let two = card("mit".into(), "gemma".into());
    assert!(two.contains("\nlicense: \"other\"\n") && two.contains("- mother: `gemma`\n"), "{two}");
    let unknown = card("mit".into(), Value::Null);
    assert!(!unknown.contains("\nlicense:"), "{unknown}");
    assert!(unknown.contains("- father: `mit`\n- mother: its files state none\n"), "{unknown}");
}

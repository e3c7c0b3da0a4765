//! Continuations: draws that depend on nothing else, reasons to end, text as it comes.

use darwin_core::fs::write_atomic;
use darwin_core::{Cancel, Diagnose};
use darwin_engine::{
    Finish, GenerateOptions, Generation, Generator, Model, Request, Sampling, Text, TextStream,
};
use darwin_testkit::{Tiny, tiny_qwen35, write_tiny_text};
use serde_json::json;
use std::sync::Mutex;

fn options(max_new_tokens: usize, stop: &[u32]) -> GenerateOptions {
    GenerateOptions { max_new_tokens, stop: stop.to_vec() }
}

fn drawn(seed: u64) -> Sampling {
    Sampling { temperature: 1.2, top_k: 40, repetition_penalty: 1.1, seed, ..Sampling::default() }
}

fn requests(prompts: &[Vec<u32>]) -> Vec<Request<'_>> {
    let numbered = (0..).zip(prompts);
    numbered.map(|(sequence, prompt)| Request { prompt, draft: &[], sequence }).collect()
}

fn text() -> (tempfile::TempDir, Text) {
    let dir = tempfile::tempdir().unwrap();
    write_tiny_text(dir.path()).unwrap();
    let text = Text::open(dir.path()).unwrap();
    (dir, text)
}

#[test]
fn draws_depend_on_seed_and_sequence_alone() {
    let model = Model::load(&tiny_qwen35(1)).unwrap();
    let prompts: Vec<Vec<u32>> = (0..40_u32).map(|i| (i..i + 1 + i % 7).collect()).collect();
    let (options, never) = (options(12, &[]), Cancel::default());
    let by = Generator::new(&model, &options).sampling(drawn(7));
    let run = |requests: &[Request<'_>]| by.run(requests, &never).unwrap().0;
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run(&requests(&prompts)))
    };
    let one = with(1);
    assert_eq!(one, with(2));
    assert_eq!(one, with(5));
    let asked = requests(&prompts);
    assert_eq!(one[9..10], run(&asked[9..10]));
    let other = Request { sequence: 90, ..asked[9] };
    assert_ne!(one[9..10], run(&[other]), "another sequence draws anew");
    let seed = by.sampling(drawn(8)).run(&asked, &never).unwrap().0;
    assert_ne!(one, seed, "another seed draws anew");
    // a draft is verified with the draws that would have come
    for cut in [1, 5, 12] {
        let mut draft = one[9].ids.clone();
        draft.truncate(cut);
        draft.extend([3, 4]);
        assert_eq!(one[9..10], run(&[Request { draft: &draft, ..asked[9] }]));
    }
}

#[test]
fn equal_prompts_run_once() {
    let model = Model::load(&tiny_qwen35(1)).unwrap();
    let prompt: Vec<u32> = (0..50).collect();
    let (options, never) = (options(6, &[]), Cancel::default());
    let by = Generator::new(&model, &options).sampling(drawn(1));
    let request = |sequence| Request { prompt: &prompt, draft: &[], sequence };
    let asked: Vec<_> = (0..5).map(request).collect();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let (together, cost) = pool.install(|| by.run(&asked, &never)).unwrap();
    for (request, generation) in asked.iter().zip(&together) {
        assert_eq!(by.run(&[*request], &never).unwrap().0[0], *generation);
    }
    assert_eq!((cost.tokens, cost.run), (5 * 55, 50 + 5 * 5));
    let different: std::collections::BTreeSet<_> = together.iter().map(|g| &g.ids).collect();
    assert_eq!(different.len(), 5);
}

/// New sequences join as others end: short and long ones together are what they are alone.
#[test]
fn sequences_join_and_leave() {
    let model = Model::load(&tiny_qwen35(3)).unwrap();
    let prompts: Vec<Vec<u32>> = (0..150_u32).map(|i| vec![i, 2 * i % 250, 7]).collect();
    let never = Cancel::default();
    // stop ids make them end at different times
    let options = options(20, &(0..60).collect::<Vec<_>>());
    let by = Generator::new(&model, &options).sampling(drawn(2));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let all = pool.install(|| by.run(&requests(&prompts), &never).unwrap().0);
    let lengths: std::collections::BTreeSet<_> = all.iter().map(|g| g.ids.len()).collect();
    assert!(lengths.len() > 5, "{lengths:?}");
    for (i, request) in requests(&prompts).iter().enumerate().step_by(29) {
        assert_eq!(by.run(&[*request], &never).unwrap().0[0], all[i], "{i}");
    }
}

#[test]
fn every_end_has_its_reason() {
    let model = Model::load(&tiny_qwen35(1)).unwrap();
    let context = model.config().max_position_embeddings;
    let never = Cancel::default();
    let run = |prompt: &[u32], options: &GenerateOptions| -> Generation {
        let request = Request { prompt, draft: &[], sequence: 0 };
        Generator::new(&model, options).run(&[request], &never).unwrap().0.remove(0)
    };
    let free = run(&[1, 2], &options(9, &[]));
    assert_eq!((free.ids.len(), free.finish), (9, Finish::Length));
    let at = free.ids.iter().position(|id| *id == free.ids[4]).unwrap();
    let stopped = run(&[1, 2], &options(9, &[free.ids[4]]));
    assert_eq!(stopped.ids, free.ids[..=at]);
    assert_eq!(stopped.finish, Finish::StopId(free.ids[4]));
    let long = vec![5; context - 3];
    let full = run(&long, &options(9, &[]));
    assert_eq!((full.ids.len(), full.finish), (3, Finish::Context));
    let none = run(&[1], &options(0, &[]));
    assert_eq!((none.ids.len(), none.finish), (0, Finish::Length));
    let too_long = vec![5; context];
    let request = Request { prompt: &too_long, draft: &[], sequence: 0 };
    let options = options(1, &[]);
    let error = Generator::new(&model, &options).run(&[request], &never).unwrap_err();
    assert!(error.to_string().contains("the model's context"), "{error}");
}

#[test]
fn text_ends_before_the_stop_string() {
    let model = Model::load(&Tiny::default().build("tiny", 5)).unwrap();
    let (_dir, text) = text();
    let (options, never) = (options(60, &[]), Cancel::default());
    let request = Request { prompt: &[1, 2, 3], draft: &[], sequence: 4 };
    let run = |stop: &[String]| {
        let said = Mutex::new(String::new());
        let listener = |chosen: &darwin_engine::Chosen<'_>| {
            assert_eq!(chosen.request, 0);
            said.lock().unwrap().push_str(chosen.text);
        };
        let by = Generator::new(&model, &options).sampling(drawn(3)).text(&text, stop, false);
        let generation = by.listener(&listener).run(&[request], &never).unwrap().0.remove(0);
        assert_eq!(said.into_inner().unwrap(), generation.text);
        generation
    };
    let whole = run(&[]);
    assert_eq!(whole.text, text.decode(&whole.ids, false));
    assert_eq!(whole.finish, Finish::Length);
    let chars: Vec<char> = whole.text.chars().collect();
    let mut met = 0;
    // a byte is a token: two characters or more lie across tokens
    for at in 1..chars.len() - 3 {
        let stop: String = chars[at..at + 3].iter().collect();
        let generation = run(&["never".to_owned(), stop.clone()]);
        let wanted = &whole.text[..whole.text.find(&stop).unwrap()];
        assert_eq!(generation.text, wanted);
        assert!(whole.ids.starts_with(&generation.ids));
        assert!(generation.ids.len() < whole.ids.len() || at + 3 >= chars.len() - 1);
        met += usize::from(generation.finish == Finish::StopString(stop));
    }
    assert_eq!(met, chars.len() - 4);
    let by = Generator::new(&model, &options).text(&text, &[], true);
    let empty = [String::new()];
    let error = by.text(&text, &empty, true).run(&[request], &never).unwrap_err();
    assert!(error.to_string().contains("stop string 0 is empty") && error.hint().is_some());
}

#[test]
fn what_was_said_before_a_cancel_is_kept() {
    let model = Model::load(&tiny_qwen35(1)).unwrap();
    let (_dir, text) = text();
    let (options, cancel) = (options(500, &[]), Cancel::default());
    let count = Mutex::new(0);
    let listener = |_: &darwin_engine::Chosen<'_>| {
        let mut count = count.lock().unwrap();
        *count += 1;
        if *count == 40 {
            cancel.cancel();
        }
    };
    let prompts = [vec![1, 2], vec![3]];
    let by = Generator::new(&model, &options).text(&text, &[], false).listener(&listener);
    let (generations, _) = by.run(&requests(&prompts), &cancel).unwrap();
    let tokens: usize = generations.iter().map(|g| g.ids.len()).sum();
    assert!((40..60).contains(&tokens), "{tokens}");
    for generation in &generations {
        assert_eq!(generation.finish, Finish::Interrupted);
        assert_eq!(generation.text, text.decode(&generation.ids, false));
    }
}

#[test]
fn samplings_are_checked() {
    let model = Model::load(&tiny_qwen35(1)).unwrap();
    let options = options(1, &[]);
    let refused = |sampling: Sampling, words: &str| {
        let by = Generator::new(&model, &options).sampling(sampling);
        let error = by.run(&[], &Cancel::default()).unwrap_err();
        assert!(error.to_string().contains(words) && error.hint().is_some(), "{error}");
    };
    let fine = Sampling::default();
    refused(Sampling { temperature: -0.5, ..fine }, "`temperature` is -0.5, allowed is 0 (greedy)");
    refused(Sampling { temperature: f32::NAN, ..fine }, "`temperature` is NaN");
    refused(Sampling { top_p: 1.5, ..fine }, "`top_p` is 1.5, allowed is between 0 and 1");
    refused(Sampling { min_p: -1.0, ..fine }, "`min_p` is -1");
    refused(Sampling { repetition_penalty: 0.0, ..fine }, "`repetition_penalty` is 0");
}

/// The pieces in which a text's tokens come, and what is left at the end.
fn pieces(text: &Text, ids: &[u32], stop: &[String]) -> (Vec<String>, String) {
    let mut stream = TextStream::new(text, true, stop);
    let pieces = ids.iter().map(|id| stream.push(*id)).collect();
    (pieces, stream.finish())
}

#[test]
fn characters_come_whole() {
    let (_dir, text) = text();
    let ids = text.encode("né 7你😀<|im_end|>!").unwrap();
    let (said, left) = pieces(&text, &ids, &[]);
    let wanted = ["n", "", "é", " ", "7", "", "", "你", "", "", "", "😀", "", "!"];
    assert_eq!((said, left.as_str()), (wanted.map(str::to_owned).to_vec(), ""));
    let (said, left) = pieces(&text, &ids[..9], &[]);
    assert_eq!((said.concat().as_str(), left.as_str()), ("né 7你", "\u{fffd}"));
    // bytes at random: what came is what they are together
    for seed in 0..50_u32 {
        let ids: Vec<u32> = (0..40).map(|i| (i * i * 7 + seed * (i + 11) * 13) % 256).collect();
        let (said, left) = pieces(&text, &ids, &[]);
        assert_eq!(said.concat() + &left, text.decode(&ids, true));
    }
    let junk = vec![text.encode("😀").unwrap()[0]; 100];
    let (said, left) = pieces(&text, &junk, &[]);
    assert_eq!(said.concat() + &left, text.decode(&junk, true));
}

#[test]
fn beginnings_of_stop_strings_are_held_back() {
    let (_dir, text) = text();
    let stop = ["END".to_owned(), "ENOUGH".to_owned()];
    let of = |words: &str| pieces(&text, &text.encode(words).unwrap(), &stop);
    let (said, left) = of("aENEND!");
    assert_eq!(said, ["a", "", "", "EN", "", "", ""]);
    assert_eq!(left, "");
    let (said, left) = of("EN");
    assert_eq!((said.concat().as_str(), left.as_str()), ("", "EN"));
    let (said, _) = of("ENOUGx");
    assert_eq!(said, ["", "", "", "", "", "ENOUGx"]);
}

/// Decoders that strip a blank at the beginning, and put characters together from byte tokens
/// (Llama's).
#[test]
fn other_decoders_stream_too() {
    let dir = tempfile::tempdir().unwrap();
    let vocab = ["<unk>", "▁Hello", "▁world", "!", "<0xE4>", "<0xBD>", "<0xA0>", "▁"];
    let vocab: serde_json::Map<_, _> =
        vocab.iter().enumerate().map(|(i, token)| (token.to_string(), json!(i))).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}
        ]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "byte_fallback": true,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
            "vocab": vocab, "merges": []}
    });
    write_atomic(&dir.path().join("tokenizer.json"), tokenizer.to_string().as_bytes()).unwrap();
    let text = Text::open(dir.path()).unwrap();
    let (said, left) = pieces(&text, &[1, 2, 3, 4, 5, 6, 7, 1, 4], &[]);
    let wanted = ["Hello", " world", "!", "", "", "你", " ", " Hello", ""];
    assert_eq!((said, left.as_str()), (wanted.map(str::to_owned).to_vec(), "\u{fffd}"));
    assert_eq!(text.decode(&[1, 2, 3, 4, 5, 6, 7, 1, 4], true), "Hello world!你  Hello\u{fffd}");
}

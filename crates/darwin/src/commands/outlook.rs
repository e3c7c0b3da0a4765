//! `darwin evolve CONFIG --dry-run`

use crate::preflight::evolution;
use crate::table::{human_count, table};
use crate::ui::Ui;
use darwin_core::Failure;
use darwin_evolve::{Outlook, Place, RunConfig, outlook};

/// Prints what the run would do; refuses what the run would refuse.
pub(crate) fn run(config: &RunConfig, ui: &Ui) -> Result<(), Failure> {
    let (threads, hashes) = (rayon::current_num_threads(), super::hash_cache());
    let outlook = outlook(config, threads, &hashes, ui.progress(), ui.cancel())?;
    ui.say(head(config));
    ui.say(splits(&outlook));
    ui.say(arms(&outlook));
    for note in &outlook.notes {
        ui.warn(note);
    }
    ui.say(match outlook.place {
        Place::New => format!("out     {}: the run begins", config.out.display()),
        Place::Continued(known) => {
            let out = config.out.display();
            format!("out     {out}: the run goes on after {known} candidates")
        }
    });
    evolution(config, &outlook.takes).settle(true, ui)?;
    Ok(())
}

fn head(config: &RunConfig) -> String {
    let protected = config.goal.protected.iter();
    let protected: Vec<String> =
        protected.map(|(domain, margin)| format!("{domain} (margin {margin})")).collect();
    format!(
        "{}\nfather     {}\nmother     {}\nitems      {}\nprotected  {}\n",
        config.title,
        config.father.display(),
        config.mother.display(),
        config.items.display(),
        if protected.is_empty() { "nothing".to_owned() } else { protected.join(", ") },
    )
}

/// A row per split: what is configured, what is there, what is taken.
fn splits(outlook: &Outlook) -> String {
    let head = ["split", "per domain", "domains", "fewest", "most", "taken", "tokens"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for split in &outlook.splits {
        let counts = || split.there.values().copied();
        rows.push(vec![
            split.split.to_string(),
            split.per_domain.to_string(),
            split.there.len().to_string(),
            counts().min().unwrap_or(0).to_string(),
            counts().max().unwrap_or(0).to_string(),
            split.items.to_string(),
            human_count(split.tokens),
        ]);
    }
    table(&rows)
}

/// A row per arm.
fn arms(outlook: &Outlook) -> String {
    let head = ["arm", "proxy tokens", "before it begins", "real", "selection", "tokens in all"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for arm in &outlook.arms {
        rows.push(vec![
            arm.arm.name().to_owned(),
            human_count(arm.proxy_tokens),
            human_count(arm.begins),
            arm.real_steps.to_string(),
            arm.selection.to_string(),
            human_count(arm.tokens),
        ]);
    }
    let times = outlook.replicates;
    let each = if times > 1 {
        format!("each arm {times} times, each time with its own items\n")
    } else {
        String::new()
    };
    table(&rows) + &each
}

//! DeepSeek-V2 and DeepSeek-V3: latent attention, dense first layers, then routed experts beside
//! shared ones.

use super::Family;
use crate::config::{
    Config, LatentForm, MlpKind, Reader, RouterForm, RouterGroups, RouterScores, SharedForm,
};
use serde_json::Value;

pub(super) const FAMILY: Family = Family { model_types: &["deepseek_v2", "deepseek_v3"], config };

fn config(read: &mut Reader<'_>) -> Config {
    let config = Config::plain(read);
    let (latent, rope) = LatentForm::read(read);
    if config.num_key_value_heads != config.num_attention_heads {
        let allowed = format!("num_attention_heads = {}", config.num_attention_heads);
        read.wrong("num_key_value_heads", config.num_key_value_heads, &allowed);
    }
    read.needed(&["first_k_dense_replace", "n_shared_experts"]);
    let layers = config.num_hidden_layers;
    let dense = (read.text_u64("first_k_dense_replace").unwrap_or(0) as usize).min(layers);
    only(read, "moe_layer_freq", &Value::from(1));
    let num_experts = read.size("n_routed_experts");
    let second = config.model_type == "deepseek_v2";
    let moe_intermediate_size = read.size("moe_intermediate_size");
    let shared = read.text_u64("n_shared_experts").unwrap_or(0) as usize;
    Config {
        mlp_types: (0..layers)
            .map(|i| if i < dense { MlpKind::Dense } else { MlpKind::Sparse })
            .collect(),
        intermediate_size: if dense > 0 { read.size("intermediate_size") } else { 0 },
        mlp_bias: second && read.flag("mlp_bias", false),
        num_experts,
        num_experts_per_tok: read.size("num_experts_per_tok"),
        moe_intermediate_size,
        shared_expert_intermediate_size: shared * moe_intermediate_size,
        router: if second { second_router(read) } else { third_router(read) },
        shared: if shared > 0 { SharedForm::Plain } else { SharedForm::None },
        head_dim: latent.qk_head_dim(),
        latent: Some(latent),
        rope,
        ..config
    }
}

/// Softmax; the best groups by their best expert (`group_limited_greedy`).
fn second_router(read: &mut Reader<'_>) -> RouterForm {
    only(read, "scoring_func", &Value::from("softmax"));
    // DeepSeek's own code normalises where this is true, transformers does not
    only(read, "norm_topk_prob", &Value::from(false));
    let groups = match read.get("topk_method").map(Value::as_str) {
        None | Some(Some("greedy")) => None,
        Some(Some("group_limited_greedy")) => Some(groups(read, 1)),
        Some(_) => {
            let found = read.get("topk_method").unwrap_or(&Value::Null);
            read.wrong("topk_method", found, "greedy or group_limited_greedy");
            None
        }
    };
    let scaling = read.number("routed_scaling_factor", None) as f32;
    RouterForm { groups, scaling, ..RouterForm::softmax(false) }
}

/// Sigmoid; a bias moves the choice; the best groups by their two best experts (`noaux_tc`).
fn third_router(read: &mut Reader<'_>) -> RouterForm {
    only(read, "scoring_func", &Value::from("sigmoid"));
    only(read, "topk_method", &Value::from("noaux_tc"));
    RouterForm {
        normalised: read.flag("norm_topk_prob", true),
        scores: RouterScores::Sigmoid,
        bias: true,
        groups: Some(groups(read, 2)),
        scaling: read.number("routed_scaling_factor", None) as f32,
    }
}

fn groups(read: &mut Reader<'_>, best: usize) -> RouterGroups {
    let (count, kept) = (read.size("n_group"), read.size("topk_group"));
    let (experts, k) = (read.size("n_routed_experts"), read.size("num_experts_per_tok"));
    let size = experts / count;
    if !experts.is_multiple_of(count) || size < best {
        let allowed = format!("a divisor of n_routed_experts = {experts}, of {best} or more each");
        read.wrong("n_group", count, &allowed);
    }
    if kept > count || kept * size < k {
        let allowed = format!("at most n_group = {count} and {k} experts or more together");
        read.wrong("topk_group", kept, &allowed);
    }
    RouterGroups { count, kept, best }
}

/// Notes a key whose value is another than the one that is computed.
fn only(read: &mut Reader<'_>, key: &str, allowed: &Value) {
    if let Some(found) = read.get(key).filter(|found| *found != allowed) {
        read.wrong(key, found, &allowed.to_string());
    }
}

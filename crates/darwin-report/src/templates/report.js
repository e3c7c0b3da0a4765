(() => {
  "use strict";
  const style = () => getComputedStyle(document.documentElement);
  const theme = () => {
    const css = style();
    const get = (name) => css.getPropertyValue(name).trim();
    const axis = (a) => ({
      [a + ".gridcolor"]: get("--grid"),
      [a + ".zerolinecolor"]: get("--soft"),
      [a + ".linecolor"]: get("--rule"),
      [a + ".tickcolor"]: get("--rule"),
    });
    return {
      "font.color": get("--soft"),
      "font.size": 12,
      "font.family": getComputedStyle(document.body).fontFamily,
      "hoverlabel.bgcolor": get("--card"),
      "hoverlabel.bordercolor": get("--rule"),
      "hoverlabel.font.color": get("--ink"),
      ...axis("xaxis"),
      ...axis("yaxis"),
    };
  };
  const put = (target, flat) => {
    for (const [path, value] of Object.entries(flat)) {
      const keys = path.split(".");
      const last = keys.pop();
      keys.reduce((o, k) => (o[k] ??= {}), target)[last] = value;
    }
    return target;
  };
  const sources = [...document.querySelectorAll("script[data-figure]")];
  const drawn = [];
  const draw = (source) => {
    const div = document.getElementById(source.dataset.figure);
    const { data, layout, config } = JSON.parse(source.textContent);
    const done = Plotly.newPlot(div, data, put(layout, theme()), config);
    drawn.push(div);
    return done;
  };
  const all = async () => {
    for (const source of sources) {
      await draw(source);
      await new Promise((next) => setTimeout(next, 0));
    }
    document.documentElement.dataset.ready = "true";
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    const flat = theme();
    for (const div of drawn) Plotly.relayout(div, flat);
  });
  all();
})();

/* Figures follow the theme of the page (Plotly draws on its own ground otherwise, white in dark mode), fit its width, and
   their sliders can be moved with the keyboard. */
(function () {
  "use strict";

  // The widget manager asks MathJax 2 for a queue; the book ships MathJax 3, which has none.
  function shim() {
    if (window.MathJax && !window.MathJax.Hub) {
      window.MathJax.Hub = { Queue: function () {}, Config: function () {}, Configured: function () {} };
    }
  }
  shim();
  window.addEventListener("load", shim);

  // Without a server the search cannot fetch the pages that it has found, to quote from them.
  if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS !== "undefined") {
    DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
  }

  var INK = "#e4e8ec", GRID = "#4a535d", NONE = "rgba(0,0,0,0)", PANEL = "#5b6773";

  function darkValues(graph) {
    var values = { paper_bgcolor: NONE, plot_bgcolor: NONE, "font.color": INK, "title.font.color": INK,
                   "legend.font.color": INK, "legend.bgcolor": NONE };
    var full = graph._fullLayout || {};
    Object.keys(full).forEach(function (key) {
      if (/^[xy]axis\d*$/.test(key)) {
        values[key + ".gridcolor"] = GRID;
        values[key + ".linecolor"] = GRID;
        values[key + ".zerolinecolor"] = GRID;
      }
    });
    ["sliders", "updatemenus", "annotations"].forEach(function (list) {
      (graph.layout[list] || []).forEach(function (item, index) {
        var name = list + "[" + index + "].";
        values[name + "font.color"] = INK;
        if (list !== "annotations") { values[name + "bgcolor"] = PANEL; values[name + "bordercolor"] = GRID; }
        if (list === "sliders") { values[name + "currentvalue.font.color"] = INK; values[name + "tickcolor"] = GRID; }
      });
    });
    return values;
  }

  function read(object, path) {
    return path.replace(/\[(\d+)\]/g, ".$1").split(".").reduce(function (value, key) {
      return value === undefined || value === null ? undefined : value[key];
    }, object);
  }

  function paint(graph, dark) {
    if (!graph._fullLayout || graph._bookDark === dark || (!dark && graph._bookDark === undefined)) { return; }
    var values = dark ? darkValues(graph) : graph._bookLight;
    if (dark) {
      var light = {};
      Object.keys(values).forEach(function (path) {
        var value = read(graph.layout, path);
        light[path] = value === undefined ? null : value;
      });
      graph._bookLight = light;
    }
    graph._bookDark = dark;
    window.Plotly.relayout(graph, values);
  }

  function paintAll() {
    if (!window.Plotly) { return; }
    var dark = document.documentElement.dataset.theme === "dark";
    document.querySelectorAll(".plotly-graph-div").forEach(function (graph) { paint(graph, dark); });
  }

  // The boxes around a figure have the height that it was made with.
  function resize(graph, height) {
    [graph, graph.parentElement].forEach(function (box) { if (box.style.height) { box.style.height = height + "px"; } });
  }

  function isGrid(graph) { return Boolean(graph.layout && graph.layout.meta && graph.layout.meta.aspect); }

  // Grids of images say how high they are for their width (uniforget_lib/viz.py). `most`: how high one may become at most;
  // on a page about a screen, if the pictures can be made smaller without being lost.
  function fit(graph, most) {
    if (!isGrid(graph) || !graph._fullLayout || !graph.offsetParent) { return; }
    var meta = graph.layout.meta;
    var margin = graph._fullLayout.margin, sides = margin.l + margin.r;
    var room = graph.parentElement.offsetWidth - sides;
    var width = Math.min(room, most ? (most - meta.around) / meta.aspect : Math.max(260, 820 / meta.aspect));
    var height = Math.round(meta.around + width * meta.aspect);
    var values = { height: height, width: width < room ? Math.round(width + sides) : null, autosize: width >= room };
    // Labels stand in gaps of 16 pixels of the picture (LABEL in viz.py), however small it is drawn.
    var size = Math.max(7, Math.min(12, Math.floor(14 * width / graph._fullLayout.xaxis.range[1])));
    (graph.layout.annotations || []).forEach(function (_, i) { values["annotations[" + i + "].font.size"] = size; });
    resize(graph, height);
    var wide = values.width || graph.parentElement.offsetWidth;
    if (Math.abs(height - graph._fullLayout.height) > 2 || Math.abs(wide - graph._fullLayout.width) > 2) {
      window.Plotly.relayout(graph, values);
    }
  }

  // On slides (tools/slides.py): any figure, no higher than `most`. What is no grid is made smaller as a whole, so that its
  // parts keep their places.
  window.bookFit = function (graph, most) {
    if (isGrid(graph)) { fit(graph, most); return; }
    var full = graph._bookFull = graph._bookFull || graph._fullLayout.height;
    if (full > most) {
      graph.style.height = full + "px";
      graph.style.width = 100 * full / most + "%";
      graph.style.maxWidth = "none";
      graph.style.transform = "scale(" + most / full + ")";
      graph.style.transformOrigin = "0 0";
      graph.parentElement.style.height = most + "px";
    }
    window.Plotly.Plots.resize(graph);
  };

  // Plotly's sliders answer to a mouse only. A native one, shown while it has the focus, serves keyboards and screen readers.
  function keys(graph) {
    var slider = graph._fullLayout && graph._fullLayout.sliders && graph._fullLayout.sliders[0];
    if (!slider || graph._bookKeys) { return; }
    var input = graph._bookKeys = document.createElement("input"), steps = slider.steps;
    input.type = "range";
    input.className = "keys";
    input.min = 0;
    input.max = steps.length - 1;
    input.setAttribute("aria-label", (slider.currentvalue.prefix || "state").replace(/:\s*$/, ""));
    function tell() {
      input.value = graph._fullLayout.sliders[0].active;
      input.setAttribute("aria-valuetext", steps[input.value].label);
    }
    tell();
    graph.on("plotly_sliderchange", function () { setTimeout(tell, 0); });
    input.addEventListener("input", function () {
      var to = Number(input.value), step = steps[to];
      Promise.resolve(window.Plotly[step.method].apply(null, [graph].concat(step.args)))
        .then(function () { return window.Plotly.relayout(graph, { "sliders[0].active": to }); }).then(tell);
    });
    graph.parentElement.insertBefore(input, graph);
  }

  // What the theme and pandas leave without a name.
  function names() {
    document.querySelectorAll("thead th").forEach(function (cell) {
      if (!cell.textContent.trim()) { cell.innerHTML = '<span class="unseen">row</span>'; }
    });
    document.querySelectorAll(".bd-sidebar-primary summary").forEach(function (toggle) {
      var page = toggle.closest("li").querySelector("a");
      toggle.setAttribute("aria-label", "pages below " + (page ? page.textContent.trim() : "this one"));
    });
    document.querySelectorAll("[role=doc-biblioentry]").forEach(function (entry) { entry.setAttribute("role", "listitem"); });
    var logo = document.querySelector(".sidebar-primary-item .navbar-brand.logo");
    if (logo) { logo.parentElement.setAttribute("role", "navigation"); logo.parentElement.setAttribute("aria-label", "Home"); }
    if (location.protocol === "file:") {  // this is the archive already
      document.querySelectorAll("a[href$='uniforget-book.zip']").forEach(function (link) { link.remove(); });
    }
  }

  function start() {
    names();
    paintAll();
    if (window.Plotly) { document.querySelectorAll(".plotly-graph-div").forEach(function (graph) { fit(graph); keys(graph); }); }
    new MutationObserver(paintAll).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    // A figure inside a closed tab or a phone turned sideways: draw again at the width it has now.
    var timer;
    window.addEventListener("resize", function () {
      clearTimeout(timer);
      timer = setTimeout(function () {
        document.querySelectorAll(".plotly-graph-div").forEach(function (graph) {
          if (graph._fullLayout && graph.offsetParent) { window.Plotly.Plots.resize(graph).then(function () { fit(graph); }); }
        });
      }, 200);
    });
  }
  if (document.readyState === "complete") { start(); } else { window.addEventListener("load", start); }
})();

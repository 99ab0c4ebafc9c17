// Keeps an open page current. The pages are whole without it.

import { follow, state, words } from "./live.js";

const root = document.documentElement;
const main = document.getElementById("main");
const lamp = document.getElementById("live");
const behind = document.getElementById("standby");
const icon = document.querySelector("link[rel=icon]");
const base = new URL("../../", import.meta.url); // where the service is, behind a proxy too
const follows = main.dataset.follow;

const FINAL = ["completed", "failed", "cancelled"];
const SPOKEN = ["failed", "cancelled"];
const LISTED = ["status", "name", "type", "priority", "agents_failed", "tree_failed", "tree_workflows"]; // what a change of may move a row
const MOST = 200; // rows of a list that are compared
const LATE = 5; // s that a standby may be behind
const CALM = 5000; // ms between two looks where nothing is heard, for forecasts and running times

const number = (count) => count?.toLocaleString("en-US") ?? "–"; // what was not counted yet is a dash

// As shown() on the server: breaks become spaces, other control characters are made visible.
const shown = (text) =>
    (text ?? "")
        .replace(/[\t\n\v\f\r\x85\u2028\u2029]+/g, " ")
        .replace(/[\x00-\x1f\x7f-\x9f]/g, "\ufffd")
        .trim();

function duration(seconds) {
    const whole = Math.max(0, Math.trunc(seconds));
    const part = (unit, of) => Math.trunc((whole % of) / unit);
    if (whole < 60) return whole ? `${whole} s` : "< 1 s";
    if (whole < 600) return `${part(60, 3600)} min ${whole % 60} s`;
    if (whole < 3600) return `${part(60, 3600)} min`;
    if (whole < 86400) return `${part(3600, 86400)} h ${part(60, 3600)} min`;
    return `${Math.trunc(whole / 86400)} d ${part(3600, 86400)} h`;
}

// ---- Numbers and bars, as charts.py lays them out ----

function partsOf(workflow, atWork) {
    const counts = {};
    for (const name of FINAL) counts[name] = workflow[`agents_${name}`] ?? 0;
    const open = Math.max(0, workflow.agents_open ?? 0);
    const settled = counts.completed + counts.failed + counts.cancelled;
    counts.running = Math.min(atWork, open);
    counts.open = open - counts.running;
    counts.planned = Math.max(0, (workflow.agents_total ?? 0) - settled - open);
    return counts;
}

// A workflow with the numbers of all below it, where there is something.
function wholeOf(workflow) {
    if ((workflow.tree_workflows ?? 1) === 1) return workflow;
    const whole = { ...workflow, progress: workflow.tree_progress, progress_percentage: workflow.tree_progress };
    for (const what of ["completed", "total", "created", "failed", "cancelled"])
        whole[`agents_${what}`] = workflow[`tree_${what}`];
    whole.agents_open = whole.agents_created - FINAL.reduce((sum, name) => sum + whole[`agents_${name}`], 0);
    return whole;
}

function drawBar(bar, counts) {
    const least = Number(bar.dataset.least);
    const values = Object.values(counts);
    const total = values.reduce((sum, count) => sum + count, 0);
    const widths = values.map((count) => (count > 0 ? Math.max(least, (count * 100) / total) : 0));
    if (total) {
        const sum = widths.reduce((one, other) => one + other, 0);
        widths[widths.indexOf(Math.max(...widths))] -= sum - 100;
    }
    let start = 0;
    bar.querySelectorAll("rect").forEach((rect, place) => {
        attribute(rect, "x", `${Number(start.toPrecision(6))}%`);
        attribute(rect, "width", `${Number(widths[place].toPrecision(6))}%`);
        start += widths[place];
    });
}

function stateOf(workflow) {
    if (workflow.status === "completed" && workflow.progress_percentage === 100) return "done";
    return FINAL.includes(workflow.status) ? "ended" : "active";
}

function attribute(element, name, value) {
    if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

function write(element, text) {
    if (element.textContent !== text) element.textContent = text;
}

const nouns = main.dataset.nouns; // what tasks are called
const hasNothing = (w) => w.agents_total === 0 && !w.progress_percentage; // no tasks, and none are planned

const FIELDS = {
    name: (w) => shown(w.name) || shown(w.workflow_id),
    stage: (w) => shown(w.current_stage),
    progress: (w) => (hasNothing(w) ? "–" : number(w.progress_percentage)),
    settled: (w) => (hasNothing(w) ? "–" : number(w.settled_percentage)),
    stage_progress: (w) => number(w.stage_progress),
    agents: (w) =>
        w.agents_created === null
            ? `${nouns} not counted`
            : hasNothing(w)
              ? `no ${nouns}`
              : `${number(w.agents_completed)} of ${number(w.agents_total)} ${nouns} complete`,
    created: (w) => number(w.agents_created),
    below: ({ tree_workflows: many }) =>
        many > 1 ? `with all below: ${number(many - 1)} sub-workflow${many > 2 ? "s" : ""}` : "",
};

function paint(place, heard) {
    const inTable = place !== main;
    const workflow = inTable ? wholeOf(heard) : heard;
    const counts = partsOf(workflow, Number(place.dataset.running ?? 0));
    const look = stateOf(workflow);
    for (const field of place.querySelectorAll("[data-f]")) {
        const name = field.dataset.f;
        if (field.title && name in FIELDS) attribute(field, "title", FIELDS[name](workflow));
        if (name === "failed" && inTable && !field.closest(".tip"))
            write(field, workflow.agents_failed ? `${number(workflow.agents_failed)} failed` : "");
        else if (name in FIELDS) write(field, FIELDS[name](workflow));
        else if (name in counts) write(field, number(counts[name]));
    }
    for (const bar of place.querySelectorAll("[data-bar]")) {
        drawBar(bar, counts);
        const said = SPOKEN.filter((name) => counts[name]).map((name) => `, ${number(counts[name])} ${name}`);
        attribute(bar, "aria-valuenow", String(workflow.progress_percentage ?? 0));
        attribute(
            bar,
            "aria-valuetext",
            `${hasNothing(workflow) ? "" : `${FIELDS.progress(workflow)} %: `}${FIELDS.agents(workflow)}${said.join("")}, workflow ${workflow.status}`,
        );
    }
    for (const part of place.querySelectorAll("[data-state]:not(#tree *)")) attribute(part, "data-state", look);
    for (const part of place.querySelectorAll("[data-part]"))
        part.classList.toggle("zero", !counts[part.dataset.part]);
    const chip = place.querySelector(".status:not(#tree *)");
    write(chip.querySelector(".word"), workflow.status);
    if (chip.dataset.status !== workflow.status) {
        chip.dataset.status = workflow.status;
        chip.querySelector("use").setAttribute("href", `#i-${workflow.status}`);
    }
    if (inTable) place.toggleAttribute("data-failing", workflow.agents_failed > 0 && look === "active");
    else if (main.dataset.icon) {
        const share = hasNothing(workflow) ? `no ${nouns}` : `${FIELDS.progress(workflow)} %`;
        document.title = `${share} · ${FIELDS.name(workflow).slice(0, 80)} · agent-progress`;
        main.dataset.icon = `${workflow.status}-${workflow.progress_percentage ?? 0}`;
        showIcon();
    }
}

// The ring of a workflow's page; grey where nothing is known of it.
function showIcon() {
    const [status, percentage] = main.dataset.icon?.split("-") ?? [];
    if (status) attribute(icon, "href", `${base}icons/${state() === "silent" ? "silent" : status}-${percentage}.svg`);
}

// ---- Taking over new HTML of the same page, without losing focus, scroll position or what is folded open ----

const keyOf = (node) => (node.nodeType === 1 ? node.getAttribute("data-key") || node.id : "");

function morph(from, to) {
    if (from.nodeType !== 1) {
        if (from.data !== to.data) from.data = to.data;
        return;
    }
    if (from.isEqualNode(to)) return;
    // What is folded open stays so, and what was folded by hand.
    const kept = (name) => name === "open" && from.nodeName === "DETAILS";
    for (const { name, value } of to.attributes) if (!kept(name)) attribute(from, name, value);
    for (const { name } of [...from.attributes]) if (!to.hasAttribute(name) && !kept(name)) from.removeAttribute(name);

    const isList = [...to.children, ...from.children].some(keyOf);
    const nodes = (of) => (isList ? [...of.children] : [...of.childNodes]);
    const wanted = nodes(to);
    const keys = new Set(wanted.map(keyOf));
    const keyed = new Map();
    for (const node of nodes(from)) {
        const key = keyOf(node);
        if (key && !keys.has(key)) node.remove();
        else if (key) keyed.set(key, node);
    }
    const left = nodes(from);
    for (const node of wanted) {
        const key = keyOf(node);
        const next = left.find((one) => one.parentNode === from);
        let match = keyed.get(key);
        if (!key && next && !keyOf(next) && next.nodeName === node.nodeName) match = next;
        if (match) {
            if (match !== next) from.insertBefore(match, next ?? null);
            left.splice(left.indexOf(match), 1);
            morph(match, node);
        } else {
            from.insertBefore(document.importNode(node, true), next ?? null);
        }
    }
    for (const node of left) node.remove();
}

// ---- What is known, and fetching more of it ----

const known = new Map(); // id to {workflow, at}: the latest state heard, and when

let ahead = Date.parse(main.dataset.now) - Date.now(); // of the server's clock, in ms

async function get(url, accept) {
    const answer = await fetch(new URL(url, base), { headers: { Accept: accept }, cache: "no-cache" });
    if (answer.redirected || answer.status === 401) location.reload(); // the login has ended
    if (!answer.ok) throw new Error(`${answer.status}`);
    return answer;
}

// Runs when asked to, at most once in a second, and rarer where an answer takes long.
class Calmly {
    constructor(work) {
        this.work = work;
        this.rest = 0;
        this.timer = null;
        this.again = false;
    }

    ask() {
        if (this.timer !== null) this.again = true;
        else this.timer = setTimeout(() => this.run(), Math.max(0, this.rest - performance.now()));
    }

    async run() {
        this.again = false;
        const began = performance.now();
        try {
            await this.work();
        } catch {
            // The next event or look asks again.
        }
        const ended = performance.now();
        this.rest = Math.max(began + 1000, ended + 10 * (ended - began));
        this.timer = null;
        if (this.again) this.ask();
    }
}

const page = new Calmly(async () => {
    const began = performance.now();
    const answer = await get(location.href, "text/html");
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("main");
    const focused = document.activeElement;
    morph(main, fresh);
    // What was heard since the page was asked for is newer than the page.
    for (const [id, { workflow, at }] of known) if (at > began) paintAll(id, workflow);
    if (focused && focused !== document.body) {
        if (!focused.isConnected) main.focus({ preventScroll: true });
        else if (document.activeElement !== focused) focused.focus({ preventScroll: true });
    }
    ahead = Date.parse(main.dataset.now) - Date.now();
    localise();
    say();
    if (main.dataset.list) list.ask();
});

const tiles = new Calmly(async () => {
    const { overview, agents } = await (await get("api/v1/stats/overview", "application/json")).json();
    for (const tile of document.querySelectorAll("[data-tile]")) write(tile, number(overview[tile.dataset.tile] ?? 0));
    for (const one of document.querySelectorAll("[data-agents]")) write(one, number(agents[one.dataset.agents]));
    const bar = document.querySelector("#fleet .bar");
    if (!bar) return;
    const { completed, failed, cancelled, open } = agents;
    drawBar(bar, { completed, failed, cancelled, running: 0, open, planned: 0 });
    const look = agents.created && agents.completed === agents.created ? "done" : "active";
    for (const part of document.querySelectorAll("#fleet [data-state]")) part.dataset.state = look;
});

function paintAll(id, workflow) {
    for (const place of document.querySelectorAll(`[data-workflow="${CSS.escape(id)}"]`)) paint(place, workflow);
}

const isShown = (id) => document.querySelector(`[data-workflow="${CSS.escape(id)}"]`) !== null;

function hear(workflow) {
    const id = workflow.workflow_id;
    const before = known.get(id)?.workflow;
    known.set(id, { workflow, at: performance.now() });
    paintAll(id, workflow);
    return before;
}

// ---- A list: what is in it is kept current, and what would be in it now is announced ----

const list = new Calmly(async () => {
    const found = await (await get(main.dataset.list, "application/json")).json();
    const ids = found.map((workflow) => workflow.workflow_id);
    const rows = [...main.querySelectorAll("tbody [data-workflow]")];
    const listed = rows.map((row) => row.dataset.workflow);
    let unlike = 0;
    let gone = 0;
    for (const row of rows) {
        const isUnlike = found.length < MOST && !ids.includes(row.dataset.workflow) && !("gone" in row.dataset);
        row.toggleAttribute("data-unlike", isUnlike);
        unlike += isUnlike;
        gone += "gone" in row.dataset;
    }
    // Behind the last row of a full page stands what the next page has: that is not new.
    const isFull = rows.length >= Number(main.dataset.limit);
    const end = isFull ? Math.max(...listed.map((id) => ids.indexOf(id))) : ids.length;
    const fresh = ids.filter((id, place) => place < end && !listed.includes(id)).length;
    const said = [[fresh, "new"], [unlike, "no longer match"], [gone, "deleted"]].filter(([count]) => count);
    const news = document.getElementById("news");
    write(news.querySelector("span"), said.map(([count, what]) => `${number(count)} ${what}`).join(", "));
    news.toggleAttribute("data-some", said.length > 0);
});

// ---- The stream ----

let snapshots = 0;

function show() {
    const now = state();
    if (document.hidden && lamp.dataset.live === "off") return;
    if (now === "silent" && lamp.dataset.live !== now) (main.dataset.list ? list : page).ask(); // or the login has ended
    lamp.dataset.live = now;
    write(lamp, words());
    root.toggleAttribute("data-stale", now === "silent");
    showIcon();
}

function showStandby(standby) {
    behind.hidden = !standby;
    if (!standby) return;
    const { lag_seconds: lag, following } = standby;
    const words = ["standby", following ? "" : "cut off", lag === null ? "lag unknown" : `${duration(lag)} behind`];
    write(behind, words.filter(Boolean).join(", "));
    behind.toggleAttribute("data-late", !following || lag === null || lag >= LATE);
}

const TAKE = {
    snapshot(workflows) {
        const active = new Set();
        for (const workflow of workflows) {
            hear(workflow);
            if (!FINAL.includes(workflow.status)) active.add(workflow.workflow_id);
        }
        root.dataset.ready = "";
        const isFirst = snapshots++ === 0;
        if (main.dataset.list) list.ask();
        if (!("refresh" in main.dataset)) return;
        if (follows === "active") {
            // The page is older than the stream: some may have begun or ended in between.
            const rows = [...document.querySelectorAll("#active [data-workflow]")].map((row) => row.dataset.workflow);
            const isFull = rows.length >= Number(main.dataset.limit);
            const differs = rows.some((id) => !active.has(id)) || (!isFull && [...active].some((id) => !isShown(id)));
            if (differs) page.ask();
            if (differs || !isFirst) tiles.ask();
        }
        if (!isFirst) page.ask();
    },
    workflow(workflow) {
        const before = hear(workflow);
        const isNews = !before || LISTED.some((name) => before[name] !== workflow[name]);
        if (main.dataset.list && isNews) list.ask();
        if (!("refresh" in main.dataset)) return;
        if (follows === "active") tiles.ask();
        if (follows !== "active" || isNews) page.ask();
    },
    looked(workflow) {
        hear(workflow);
    },
    deleted(id) {
        const isKnown = known.delete(id);
        if ("tree" in main.dataset && isKnown) page.ask();
        for (const row of document.querySelectorAll(`tr[data-workflow="${CSS.escape(id)}"]`)) row.dataset.gone = "";
        if (main.dataset.list) list.ask();
        if (follows !== "active" || !("refresh" in main.dataset)) return;
        tiles.ask();
        page.ask();
    },
    standby: showStandby,
};

// ---- Times ----

// In the zone of the browser, or in UTC for who prefers that; with the date wherever it is not today.
let inUtc = localStorage.getItem("zone") === "UTC";

function zoned(at, utc) {
    const part = (name) => String(at[`get${utc ? "UTC" : ""}${name}`]());
    const two = (name, more = 0) => String(Number(part(name)) + more).padStart(2, "0");
    const day = `${part("FullYear")}-${two("Month", 1)}-${two("Date")}`;
    return { day, minute: `${two("Hours")}:${two("Minutes")}`, second: two("Seconds") };
}

function zoneName(utc) {
    if (utc) return "UTC";
    const parts = new Intl.DateTimeFormat("en-GB", { timeZoneName: "short" }).formatToParts();
    return parts.find(({ type }) => type === "timeZoneName").value;
}

function localise() {
    const today = zoned(new Date(Date.now() + ahead), inUtc).day;
    const full = (at, utc) => {
        const { day, minute, second } = zoned(at, utc);
        return `${day} ${minute}:${second} ${zoneName(utc)}`;
    };
    for (const time of document.querySelectorAll("time[datetime]")) {
        const at = new Date(time.dateTime);
        if (Number.isNaN(at.valueOf())) continue;
        attribute(time, "title", `${full(at, inUtc)}, ${full(at, !inUtc)}`);
        const { day, minute, second } = zoned(at, inUtc);
        const clock = day === today ? `${minute}:${second}` : `${day} ${minute}`;
        const written = { minute: `${day} ${minute}`, moment: full(at, inUtc), clock }[time.dataset.as];
        if (written) write(time, written);
    }
    for (const name of document.querySelectorAll("[data-zone]")) write(name, zoneName(inUtc));
    const button = document.getElementById("zone");
    if (!button) return;
    button.hidden = false;
    write(button.firstElementChild, zoneName(inUtc));
    button.title = `Show times in ${inUtc ? "the zone of this browser" : "UTC"}`;
}

function tick() {
    if (document.hidden || (follows && state() !== "on")) return; // nobody knows how it goes on
    const now = Date.now() + ahead;
    for (const one of document.querySelectorAll("[data-since]"))
        write(one, duration((now - Date.parse(one.dataset.since)) / 1000));
    for (const one of document.querySelectorAll("[data-until]")) {
        const left = (Date.parse(one.dateTime) - now) / 1000;
        write(one, left < 1 ? "a moment" : duration(left));
    }
}

// ---- Small things ----

document.addEventListener("click", async (event) => {
    const { target } = event;
    if (target.closest?.("#news a")) {
        event.preventDefault();
        page.ask();
    }
    if (target.closest?.("#zone")) {
        inUtc = !inUtc;
        localStorage.setItem("zone", inUtc ? "UTC" : "local");
        localise();
    }
    const button = target.closest?.("[data-copy]");
    if (!button) return;
    try {
        await navigator.clipboard.writeText(button.dataset.copy);
    } catch {
        getSelection().selectAllChildren(button.previousElementSibling); // no clipboard without https
        return;
    }
    const use = button.querySelector("use");
    button.dataset.copied = "";
    use.setAttribute("href", "#i-completed");
    setTimeout(() => {
        delete button.dataset.copied;
        use.setAttribute("href", "#i-copy");
    }, 1500);
});

document.addEventListener("keydown", ({ key }) => key === "Escape" && root.classList.add("no-tips"));
for (const kind of ["focusin", "pointerover"])
    document.addEventListener(kind, () => root.classList.remove("no-tips"));

// ---- Beginning ----

root.classList.add("js");
localise();
setInterval(tick, 1000);

let say = () => {};

const wants = () => ({
    active: follows === "active",
    trees: "tree" in main.dataset ? [main.dataset.workflow] : [],
    ids: [...new Set([...document.querySelectorAll("[data-workflow]")].map((place) => place.dataset.workflow))],
    look: main.dataset.workflow,
});

if (follows) {
    say = follow(wants, (type, data) => TAKE[type]?.(data), show);
    setInterval(() => {
        if (document.hidden || state() !== "on") return;
        if (main.dataset.list) list.ask();
        else if ("refresh" in main.dataset && main.querySelector('[data-state="active"]')) page.ask();
    }, CALM);
}

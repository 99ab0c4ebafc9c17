// A tab's side of the connection: it says what the page follows, and keeps the lamp honest. Live is only what has spoken
// within the last 12 seconds on an open stream.

import { Hub } from "./stream.js";

const SILENCE = 12_000;
const REST = 75_000; // ms of silence to a hidden tab, whose timers browsers slow down
const GRACE = 10_000; // ms that a page keeps its stream when it is hidden
const SAY = 60_000; // ms between two signs of life to the hub

let port = null;
let hidden = document.hidden;
let heard = Date.now();
let shownSince = heard;
let speaks = false;
let ended = false;

export const state = () => {
    if (ended) return "deleted";
    const silent = Date.now() - Math.max(heard, shownSince);
    if (speaks && silent < SILENCE) return "on";
    return silent < (hidden ? REST : SILENCE) ? "away" : "silent";
};

export function words() {
    const since = new Date(heard).toLocaleTimeString("en-GB");
    return { on: "live", away: "reconnecting", silent: `no word since ${since}`, deleted: "deleted" }[state()];
}

// Follow what wants() returns, {active, ids, look}; take is told what comes, and show when the lamp may have changed.
export function follow(wants, take, show) {
    function receive({ data: { type, data, heard: at } }) {
        heard = Math.max(heard, at ?? 0);
        if (type === "away") speaks = false;
        else if (type === "snapshot") speaks = true;
        if (type === "deleted" && data === wants().look) leave((ended = true));
        take(type, data);
        show();
    }

    function inPage() {
        const { port1, port2 } = new MessageChannel();
        new Hub().join(port2);
        return port1;
    }

    function join() {
        if (port || ended) return;
        try {
            const worker = new SharedWorker(new URL("stream.js", import.meta.url), { type: "module" });
            worker.onerror = () => use(inPage()); // too old for modules
            use(worker.port);
        } catch {
            use(inPage());
        }
    }

    function use(found) {
        port = found;
        port.onmessage = receive;
        say();
    }

    function say() {
        port?.postMessage({ ...wants(), hidden });
    }

    function leave() {
        port?.postMessage(null);
        port = null;
        speaks = false;
    }

    function hide(now) {
        if (hidden === now) return;
        hidden = now;
        speaks = false;
        shownSince = Date.now();
        say();
        show();
    }

    let hiding = null;
    document.addEventListener("visibilitychange", () => {
        clearTimeout(hiding);
        if (document.hidden) hiding = setTimeout(hide, GRACE, true);
        else hide(false);
    });
    addEventListener("pagehide", leave);
    addEventListener("pageshow", ({ persisted }) => persisted && join());
    setInterval(say, SAY);
    setInterval(show, 1000);
    join();
    show();
    return say;
}

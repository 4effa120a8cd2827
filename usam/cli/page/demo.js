"use strict";
const at = (name) => document.getElementById(name);
const video = at("video"), mask = at("mask"), plot = at("plot"), stage = at("stage");
const names = { iou: "--iou", task_gap: "--task", prompt_gap: "--prompt", model_gap: "--model" };
const kept = 240, longest = 640, largestGap = 0.5;
const page = Math.random().toString(36).slice(2);
let history = [], click = null, following = false, busy = false, rate = 0;

const say = (words) => { at("say").textContent = words; };

at("camera").addEventListener("click", async () => {
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ video: { width: 640 }, audio: false });
    video.removeAttribute("src");
    video.srcObject = stream;
    await begin("Click the object to follow.");
  } catch (error) {
    say(error.name === "NotAllowedError" ? "The browser was not allowed to use the webcam. Allow it for this page, or choose a video."
      : "No webcam could be used (" + error.message + "). Choose a video instead.");
  }
});

at("file").addEventListener("change", async (event) => {
  const file = event.target.files[0];
  if (!file) return;
  video.srcObject = null;
  video.src = URL.createObjectURL(file);
  await begin("Click the object to follow.").catch(() => say("This browser cannot play " + file.name + ": try an .mp4 of H.264, or a .webm."));
});

async function begin(words) {
  following = false; history = []; mask.hidden = true;
  await video.play();
  say(words);
}

stage.addEventListener("click", (event) => {
  if (!video.videoWidth) return;
  const area = stage.getBoundingClientRect();
  click = "&x=" + (event.clientX - area.left) / area.width + "&y=" + (event.clientY - area.top) / area.height;
  if (following && (event.altKey || event.shiftKey)) click += "&label=" + (event.altKey ? 0 : 1);
  else history = [];
  following = true;
  step();
});

async function step() {
  if (busy || !following) return;
  busy = true;
  const started = performance.now();
  try {
    const picture = await grab();
    const query = "?page=" + page + (click || "");
    click = null;
    const answer = await fetch("frame" + query, { method: "POST", body: picture });
    const seen = await answer.json();
    if (!answer.ok) { say(seen.error); following = false; }
    else show(seen);
  } catch (error) {
    say("usam does not answer; is it still running?"); following = false;
  }
  busy = false;
  const took = (performance.now() - started) / 1000;
  rate = rate ? 0.8 * rate + 0.2 / took : 1 / took;
  if (following) { at("rate").textContent = rate.toFixed(1); requestAnimationFrame(step); }
}

async function grab() {
  const scale = Math.min(1, longest / Math.max(video.videoWidth, video.videoHeight));
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(video.videoWidth * scale); canvas.height = Math.round(video.videoHeight * scale);
  canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
  return new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.9));
}

function show(seen) {
  mask.src = seen.mask; mask.hidden = !seen.found;
  say(seen.found ? "Following. Shift-click adds to the object, Alt-click takes away; a click changes to another one."
    : seen.out_of_sight ? "Out of sight. It goes on when the object comes back; or click it."
    : "Not found on this frame. Click the object again.");
  const values = seen.found ? { iou: seen.iou, ...seen.scores } : {};
  history.push(values);
  history = history.slice(-kept);
  for (const name of Object.keys(names)) at(name).textContent = name in values ? (Math.round(100 * values[name]) / 100 + 0).toFixed(2) : "–";
  draw();
}

function draw() {
  const pen = plot.getContext("2d"), style = getComputedStyle(document.documentElement);
  const down = (share) => 6 + (1 - share) * (plot.height - 12);
  pen.clearRect(0, 0, plot.width, plot.height);
  pen.strokeStyle = style.getPropertyValue("--line"); pen.lineWidth = 1;
  for (const share of [0, 0.5, 1]) { pen.beginPath(); pen.moveTo(0, down(share)); pen.lineTo(plot.width, down(share)); pen.stroke(); }
  for (const [name, colour] of Object.entries(names)) {
    pen.strokeStyle = style.getPropertyValue(colour); pen.lineWidth = 2; pen.beginPath();
    let drawn = false;
    history.forEach((values, index) => {
      if (!(name in values)) { drawn = false; return; }
      const share = Math.min(Math.max(name === "iou" ? values[name] : values[name] / largestGap, 0), 1);
      const across = index * plot.width / (kept - 1);
      drawn ? pen.lineTo(across, down(share)) : pen.moveTo(across, down(share));
      drawn = true;
    });
    pen.stroke();
  }
}

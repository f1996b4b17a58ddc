// The page of `segnext serve`. It loads nothing from elsewhere; names of classes and files are only ever set as text.

const $ = (id) => document.getElementById(id);
const SHOWN_CLASSES = 14; // in the invitation

const state = {
  models: [],
  limits: { bytes: Infinity, pixels: Infinity },
  token: sessionStorage.getItem("segnext token") || "",
  file: null, // the photograph that is shown: a Blob with a name
  coming: null, // the one that is under way
  result: null, // { width, height, ids, classes, model, bitmap }
  isShown: false, // the picture on the screen is that of the result
  request: null, // the AbortController of what is under way
  pinned: null, // id of the class that stays highlighted
};

// --- the service ---------------------------------------------------------------------------------------------------

class ServiceError extends Error {
  constructor(message, status, retryAfter) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

async function call(path, options = {}) {
  const headers = { ...options.headers };
  if (state.token) headers.Authorization = `Bearer ${state.token}`;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError("The service does not answer. Is it still running?", 0);
  }
  if (answer.ok) return answer;
  const text = await answer.json().then((body) => body.error.message).catch(() => `${answer.status} ${answer.statusText}`);
  throw new ServiceError(text, answer.status, Number(answer.headers.get("Retry-After")) || 0);
}

const chosenModel = () => state.models.find((model) => model.name === $("model").value) || state.models[0];

function segment(file, query, signal) {
  const type = file.type.startsWith("image/") ? file.type : "application/octet-stream";
  const parameters = new URLSearchParams({ model: chosenModel().name, ...query });
  return call(`/v1/segment?${parameters}`, { method: "POST", body: file, headers: { "Content-Type": type }, signal });
}

async function start() {
  let about;
  try {
    about = await (await call("/v1/models")).json();
  } catch (error) {
    if (error.status === 401) return askForToken(start);
    return showError(error.message, start);
  }
  state.models = about.models;
  state.limits = about.limits;
  $("model").replaceChildren(...about.models.map((model) => new Option(model.name, model.name, model.default)));
  $("model-choice").hidden = about.models.length < 2;
  showKnown();
}

function askForToken(then) {
  const dialog = $("token-dialog");
  $("token-wrong").hidden = !state.token;
  dialog.addEventListener(
    "close",
    () => {
      state.token = dialog.returnValue === "use" ? $("token").value.trim() : "";
      $("token").value = dialog.returnValue = "";
      sessionStorage.setItem("segnext token", state.token);
      if (state.token) then();
      else showError("The service needs a token.", () => askForToken(then));
    },
    { once: true },
  );
  dialog.showModal();
}

// --- a photograph --------------------------------------------------------------------------------------------------

function named(blob, name) {
  return new File([blob], name, { type: blob.type });
}

async function take(file) {
  if (!state.models.length) {
    await start();
    if (!state.models.length) return;
  }
  hideError();
  if (file.size > state.limits.bytes) {
    const most = (state.limits.bytes / 1e6).toFixed(0);
    return showError(`The photograph has ${(file.size / 1e6).toFixed(1)} MB. This service takes ${most} MB; save it smaller.`);
  }
  state.request?.abort();
  const request = (state.request = new AbortController());
  state.coming = file;
  const before = performance.now();
  $("busy").hidden = false;
  try {
    const bitmap = await drawnHere(file);
    if (request.signal.aborted) return;
    showPhotograph(bitmap || new OffscreenCanvas(4, 3));
    const answer = await segment(file, { output: "json", masks: "runs" }, request.signal);
    const result = await answer.json();
    const seconds = (performance.now() - before) / 1000;
    const shown = bitmap || (await drawnByService(file, request.signal));
    if (request.signal.aborted) return;
    if (!bitmap) showPhotograph(shown);
    state.file = file;
    state.result = { ...result, ids: decodeRuns(result), bitmap: shown };
    showResult(seconds);
  } catch (error) {
    if (request.signal.aborted) return;
    showAgain();
    if (error.status === 401) return askForToken(() => take(file));
    const wait = error.retryAfter ? ` It is busy for about ${error.retryAfter} s.` : "";
    const again = error.status === 0 || error.status >= 500 ? () => take(file) : null;
    showError(sentence(error.message) + wait, again);
  } finally {
    if (state.request === request) {
      state.coming = null;
      $("busy").hidden = true;
    }
  }
}

function cancel() {
  state.request?.abort();
  $("busy").hidden = true;
  showAgain();
}

// Show the last result, or the invitation if there is none: what came after it has failed or was cancelled.
function showAgain() {
  if (state.result) {
    showPhotograph(state.result.bitmap);
    state.isShown = true;
    drawOverlay();
    highlight(state.pinned);
    $("side").hidden = false;
    $("model").value = state.result.model;
    showKnown();
  } else {
    document.body.classList.remove("has-picture");
    $("work").hidden = true;
  }
}

// Return the photograph as this browser draws it; null: it cannot, as for a TIFF, or may leave it turned.
async function drawnHere(file) {
  const start = await file.slice(0, 21).arrayBuffer().catch(() => new ArrayBuffer(0)); // a folder has no bytes
  const bytes = new Uint8Array(start);
  // Chromium does not turn a WebP file by its EXIF orientation. Bit 3 of an extended header says that there is EXIF.
  const mayBeTurned = String.fromCharCode(...bytes.slice(8, 16)) === "WEBPVP8X" && bytes[20] & 8;
  return mayBeTurned ? null : createImageBitmap(file).catch(() => null);
}

// What a browser cannot show, the service can: it draws the photograph with colours of strength 0.
async function drawnByService(file, signal) {
  const drawn = await segment(file, { output: "overlay", alpha: 0, legend: false }, signal);
  return createImageBitmap(await drawn.blob());
}

function decodeRuns({ width, height, mask }) {
  const ids = new Uint16Array(width * height);
  let place = 0;
  for (let i = 0; i < mask.runs.length; i += 2) {
    ids.fill(mask.runs[i], place, place + mask.runs[i + 1]);
    place += mask.runs[i + 1];
  }
  return ids;
}

// --- drawing -------------------------------------------------------------------------------------------------------

function showPhotograph(bitmap) {
  const canvas = $("photo");
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  const overlay = $("overlay");
  overlay.width = overlay.height = 1;
  state.isShown = false;
  highlight(null);
  $("name-tag").hidden = true;
  document.body.classList.add("has-picture");
  $("work").hidden = false;
  $("side").hidden = true;
}

function drawOverlay(only = null) {
  const { width, height, ids, classes } = state.result;
  const canvas = $("overlay");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const colours = new Uint32Array(65536);
  const borders = new Uint32Array(65536);
  for (const { id, color } of classes) {
    if (only !== null && id !== only) continue;
    const [red, green, blue] = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
    colours[id] = packed(red, green, blue);
    borders[id] = packed(red / 3 + 170, green / 3 + 170, blue / 3 + 170);
  }
  for (let place = 0, row = 0; row < height; row++) {
    for (let column = 0; column < width; column++, place++) {
      const id = ids[place];
      const isBorder =
        (column + 1 < width && ids[place + 1] !== id) || (row + 1 < height && ids[place + width] !== id);
      pixels[place] = isBorder ? borders[id] : colours[id];
    }
  }
  context.putImageData(image, 0, 0);
}

function packed(red, green, blue) {
  return (255 << 24) | (blue << 16) | (green << 8) | red; // the bytes of a pixel are R, G, B, A
}

function highlight(id) {
  if (!state.isShown) id = null; // a button of the last legend lost the focus
  else if (id !== highlight.current) drawOverlay(id);
  highlight.current = id;
  document.body.classList.toggle("is-highlighting", id !== null);
}
highlight.current = null;

// --- what is shown beside the picture ------------------------------------------------------------------------------

function showKnown() {
  const { classes } = chosenModel();
  const items = classes.slice(0, SHOWN_CLASSES).map(({ name, color }) => {
    const item = element("li", "", swatch(color));
    item.append(name);
    return item;
  });
  if (classes.length > SHOWN_CLASSES) items.push(element("li", "", `and ${classes.length - SHOWN_CLASSES} more`));
  $("known").replaceChildren(...items);
}

function showResult(seconds) {
  const { width, height, classes, model } = state.result;
  const time = element("strong", "", `${Math.round(state.result.seconds * 1000)} ms`);
  const more = element("span", "", `${width} × ${height}, ${model}; ${Math.round(seconds * 1000)} ms with the way there and back`);
  $("summary").replaceChildren(time, more);
  $("photo").setAttribute("aria-label", `The photograph; it shows ${classes.map(({ name }) => name).join(", ")}`);
  state.pinned = null;
  state.isShown = true;
  $("legend").replaceChildren(...classes.map(entry));
  $("side").hidden = false;
  drawOverlay();
}

function entry({ id, name, color, share }) {
  const button = document.createElement("button");
  button.type = "button";
  button.setAttribute("aria-pressed", "false");
  button.dataset.id = id;
  const bar = element("span", "bar", document.createElement("i"));
  bar.firstChild.style.width = `${100 * share}%`;
  bar.firstChild.style.background = color;
  button.append(swatch(color), element("span", "name", name), element("span", "share", percent(share)), bar);
  button.addEventListener("mouseenter", () => highlight(id));
  button.addEventListener("focus", () => highlight(id));
  button.addEventListener("mouseleave", () => highlight(state.pinned));
  button.addEventListener("blur", () => highlight(state.pinned));
  button.addEventListener("click", () => pin(id));
  return element("li", "", button);
}

function pin(id) {
  state.pinned = state.pinned === id ? null : id;
  for (const button of $("legend").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.id) === state.pinned));
  }
  highlight(state.pinned);
}

function classUnder(event) {
  if (!state.isShown) return null;
  const box = $("overlay").getBoundingClientRect();
  const { width, height, ids, classes } = state.result;
  // the canvas may be narrower than its box: object-fit is contain
  const scale = Math.min(box.width / width, box.height / height);
  const column = Math.floor((event.clientX - box.left - (box.width - width * scale) / 2) / scale);
  const row = Math.floor((event.clientY - box.top - (box.height - height * scale) / 2) / scale);
  if (column < 0 || row < 0 || column >= width || row >= height) return null;
  return classes.find(({ id }) => id === ids[row * width + column]) || null;
}

function nameUnder(event) {
  const found = classUnder(event);
  const tag = $("name-tag");
  tag.hidden = !found;
  if (!found) return;
  const box = $("picture").getBoundingClientRect();
  tag.textContent = found.name;
  const half = tag.offsetWidth / 2;
  const left = Math.min(Math.max(event.clientX - box.left, half), box.width - half);
  tag.style.left = `${left}px`;
  tag.style.top = `${Math.max(event.clientY - box.top, 2 * tag.offsetHeight)}px`;
}

// --- the camera, downloads, messages -------------------------------------------------------------------------------

async function openCamera() {
  hideError();
  let stream;
  try {
    if (!navigator.mediaDevices) throw new Error("only pages by https or on this machine may use it");
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    const reasons = { NotAllowedError: "it was not allowed", NotFoundError: "there is none", NotReadableError: "another program uses it" };
    return showError(`The camera cannot be used: ${reasons[error.name] || error.message}.`);
  }
  const dialog = $("camera-dialog");
  $("take").disabled = true;
  $("video").addEventListener("loadeddata", () => ($("take").disabled = false), { once: true });
  $("video").srcObject = stream;
  dialog.addEventListener("close", () => stream.getTracks().forEach((track) => track.stop()), { once: true });
  dialog.showModal();
}

async function takePicture() {
  const video = $("video");
  const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
  canvas.getContext("2d").drawImage(video, 0, 0);
  const picture = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.95 });
  $("camera-dialog").close();
  take(named(picture, "camera.jpg"));
}

async function download(button, query, ending) {
  button.disabled = true;
  try {
    const answer = await segment(state.file, { model: state.result.model, ...query });
    const content = await answer.blob();
    const suffix = content.type === "image/jpeg" ? ".jpg" : ".png";
    const link = document.createElement("a");
    link.href = URL.createObjectURL(content);
    link.download = `${(state.file.name || "photograph").replace(/\.[^.]*$/, "")}${ending}${suffix}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  } catch (error) {
    if (error.status === 401) askForToken(() => download(button, query, ending));
    else showError(sentence(error.message));
  } finally {
    button.disabled = false;
  }
}

function showError(text, again = null) {
  $("error-text").textContent = text;
  $("retry").hidden = !again;
  $("retry").onclick = () => {
    hideError();
    again();
  };
  $("error").hidden = false;
}

function hideError() {
  $("error").hidden = true;
}

function sentence(message) {
  const text = message.replace(/^image: /, "");
  return `${text[0].toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;
}
const percent = (share) => (share >= 0.0005 ? `${(100 * share).toFixed(1)} %` : "< 0.1 %");

function element(tag, kind, content) {
  const made = document.createElement(tag);
  if (kind) made.className = kind;
  made.append(content);
  return made;
}

function swatch(color) {
  const made = element("span", "swatch", "");
  made.style.background = color;
  return made;
}

// --- what the user does --------------------------------------------------------------------------------------------

$("file").addEventListener("change", ({ target }) => {
  if (target.files[0]) take(target.files[0]);
  target.value = ""; // so that the same file can be chosen again
});
$("sample").addEventListener("click", async () => {
  try {
    take(named(await (await call("/page/sample.jpg")).blob(), "street.jpg"));
  } catch (error) {
    showError(error.message);
  }
});
$("camera").addEventListener("click", openCamera);
$("take").addEventListener("click", takePicture);
$("leave-camera").addEventListener("click", () => $("camera-dialog").close());
$("cancel").addEventListener("click", cancel);
$("dismiss").addEventListener("click", hideError);
$("model").addEventListener("change", () => {
  showKnown();
  const file = state.coming || state.file;
  if (file) take(file);
});
$("opacity").addEventListener("input", ({ target }) => {
  $("overlay").style.opacity = target.value / 100;
  $("opacity-value").textContent = `${target.value} %`;
});
$("overlay").addEventListener("pointermove", nameUnder);
$("overlay").addEventListener("pointerleave", () => ($("name-tag").hidden = true));
$("overlay").addEventListener("click", (event) => {
  const found = classUnder(event);
  if (found) pin(found.id);
});
$("save-mask").addEventListener("click", ({ target }) => download(target, { output: "mask" }, "_mask"));
$("save-overlay").addEventListener("click", ({ target }) =>
  download(target, { output: "overlay", alpha: $("opacity").value / 100 }, "_overlay"),
);
addEventListener("paste", ({ clipboardData }) => {
  const file = [...clipboardData.files].find(({ type }) => type.startsWith("image/"));
  if (file) take(file);
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("is-dropping");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("is-dropping");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("is-dropping");
  const [file] = event.dataTransfer.files;
  if (file) take(file);
  else showError("Only files can be dropped here; a link cannot. Save the photograph first.");
});

start();

"""What is in the picture, and why: a network behind a small server.  MODEL=photos-resnet20.npz uvicorn app:app"""

import os
from html import escape

from fastapi import FastAPI, HTTPException, UploadFile
from fastapi.responses import HTMLResponse

import dualnet as dn

LARGEST = 10 * 2**20  # bytes of a picture
FORM = """<!doctype html><meta name="viewport" content="width=device-width"><title>What is in the picture?</title>
<meta name="color-scheme" content="light dark">
<body style="font: 18px/1.5 system-ui; max-width: 40em; margin: 2em auto; padding: 0 1em">
<h1>What is in the picture?</h1>
<form method="post" action="/answer" enctype="multipart/form-data">
<input type="file" name="picture" accept="image/*" required> <button>Ask</button></form>"""

net = dn.load(os.environ.get("MODEL", "digits-digits_cnn.npz"))
app = FastAPI(title="dualnet")


def read(picture: UploadFile):
    """The uploaded picture as the network takes it."""
    if picture.size is None or picture.size > LARGEST:
        raise HTTPException(413, f"expected at most {LARGEST:,} bytes")
    try:
        return dn.data.prepare(net, picture.file)
    except dn.data.DataError as error:
        raise HTTPException(422, str(error)) from None


def likeliest(x) -> list[dict]:
    p = dn.to_numpy(dn.ops.softmax(dn.asarray(net.predict(x)))[0])[0]
    names = net.input.classes if net.input else [str(k) for k in range(len(p))]
    return [{"class": names[k], "probability": float(p[k])} for k in p.argsort()[::-1][:3]]


@app.get("/", response_class=HTMLResponse)
def form() -> str:
    return FORM


@app.post("/predict")
def predict(picture: UploadFile) -> list[dict]:
    """For programs: the three likeliest classes as JSON."""
    return likeliest(read(picture))


@app.post("/answer", response_class=HTMLResponse)
def answer(picture: UploadFile) -> str:
    """For people: the same, and where one gradient of the network on this picture comes from."""
    x = read(picture)
    found = likeliest(x)
    rows = "".join(f"<li>{escape(one['class'])}: {one['probability']:.1%}</li>" for one in found)
    why = dn.explain(net, x, t=dn.to_numpy(net.predict(x)).argmax(axis=1))
    small = max(x.shape[1:3]) <= 32  # larger maps are not drawn, so the text tells the number
    return f"{FORM}<ol>{rows}</ol>{why.page()._repr_html_() if small else f'<pre>{escape(str(why))}</pre>'}"

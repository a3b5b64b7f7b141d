"""Signs people in and protects three routes, with a role, a scope and a permission,
in the way of FastAPI's tutorial and of those that build on it. bench/lines counts its
lines.

    SECRET_KEY=$(openssl rand -hex 32) uvicorn app:app --port 8000
"""
import os
from datetime import datetime, timedelta, timezone
from typing import List

import jwt
from fastapi import Depends, FastAPI, HTTPException, Security
from fastapi.security import OAuth2PasswordBearer, OAuth2PasswordRequestForm, SecurityScopes
from passlib.context import CryptContext
from pydantic import BaseModel

SECRET_KEY = os.environ["SECRET_KEY"]
ALGORITHM = "HS256"
ACCESS_TOKEN_EXPIRE_MINUTES = 30

pwd_context = CryptContext(schemes=["bcrypt"], deprecated="auto")
oauth2_scheme = OAuth2PasswordBearer(tokenUrl="token", scopes={"read:items": "Read items"})
app = FastAPI()


class User(BaseModel):
    username: str
    hashed_password: str
    role: str = "user"
    permissions: List[str] = []
    scopes: List[str] = []
    disabled: bool = False


class Token(BaseModel):
    access_token: str
    token_type: str


HASH = "$2b$12$EixZaYVK1fsbw1ZfbX3OXePaWxn96p36WQoeG6Lruj3vjPGga31lW"
users_db = {
    "alice": User(username="alice", hashed_password=HASH, role="admin"),
    "bob": User(username="bob", hashed_password=HASH, permissions=["write:items"], scopes=["read:items"]),
    "carol": User(username="carol", hashed_password=HASH),
}


def authenticate_user(username: str, password: str):
    user = users_db.get(username)
    if user is None or not pwd_context.verify(password, user.hashed_password):
        raise HTTPException(401, "Incorrect username or password", {"WWW-Authenticate": "Bearer"})
    return user


def create_access_token(user: User, scopes: List[str]):
    expire = datetime.now(timezone.utc) + timedelta(minutes=ACCESS_TOKEN_EXPIRE_MINUTES)
    data = {"sub": user.username, "exp": expire, "scope": " ".join(s for s in scopes if s in user.scopes)}
    return jwt.encode(data, SECRET_KEY, algorithm=ALGORITHM)


async def get_current_user(security_scopes: SecurityScopes, token: str = Depends(oauth2_scheme)):
    unauthorized = HTTPException(401, "Could not validate credentials", {"WWW-Authenticate": "Bearer"})
    try:
        payload = jwt.decode(token, SECRET_KEY, algorithms=[ALGORITHM])
    except jwt.PyJWTError:
        raise unauthorized
    user = users_db.get(payload.get("sub"))
    if user is None or user.disabled:
        raise unauthorized
    for scope in security_scopes.scopes:
        if scope not in payload.get("scope", "").split():
            raise HTTPException(403, "Not enough permissions", {"WWW-Authenticate": f'Bearer scope="{security_scopes.scope_str}"'})
    return user


class RoleChecker:
    def __init__(self, role: str):
        self.role = role

    def __call__(self, user: User = Depends(get_current_user)):
        if user.role != self.role:
            raise HTTPException(403, "Not enough permissions")
        return user


class PermissionChecker:
    def __init__(self, permission: str):
        self.permission = permission

    def __call__(self, user: User = Depends(get_current_user)):
        if self.permission not in user.permissions:
            raise HTTPException(403, "Not enough permissions")
        return user


@app.post("/token", response_model=Token)
def login(form: OAuth2PasswordRequestForm = Depends()):
    user = authenticate_user(form.username, form.password)
    return Token(access_token=create_access_token(user, form.scopes), token_type="bearer")


@app.get("/admin")
def admin(user: User = Depends(RoleChecker("admin"))):
    return {"hello": user.username}


@app.get("/items")
def list_items(user: User = Security(get_current_user, scopes=["read:items"])):
    return {"hello": user.username}


@app.post("/items")
def add_item(user: User = Depends(PermissionChecker("write:items"))):
    return {"hello": user.username}

"""Django with its ORM in async views: forms for what comes in, psycopg's pool below."""

import asyncio
import hashlib
import json
import os
import secrets
from collections.abc import Callable

import django
from argon2 import PasswordHasher
from django import forms
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.db import IntegrityError, models
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import aget_object_or_404
from django.urls import path
from django.utils.decorators import async_only_middleware
from django.views import View
from psycopg.conninfo import conninfo_to_dict

KEY_HASH = os.environ["KEY_HASH"]
FIELDS = ("id", "email", "display_name", "is_active", "created_at")
SIZE = int(os.environ["POOL_SIZE"])

hasher = PasswordHasher(int(os.environ["HASH_PASSES"]), int(os.environ["HASH_MEMORY"]), parallelism=1)
database = conninfo_to_dict(os.environ["DATABASE_URL"])

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": database["host"],
            "NAME": database["dbname"],
            "USER": database["user"],
            "OPTIONS": {"pool": {"min_size": SIZE, "max_size": SIZE}},
        }
    },
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    MIDDLEWARE=[f"{__name__}.require_key"],
    ROOT_URLCONF=__name__,
)
django.setup()


class User(models.Model):
    email = models.CharField(unique=True)
    hashed_password = models.CharField()
    display_name = models.CharField(null=True)
    is_active = models.BooleanField(default=True)
    version = models.BigIntegerField(default=1)
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(db_default=Now())

    class Meta:
        app_label = "bench"
        db_table = "users"


class UserForm(forms.Form):
    display_name = forms.CharField(required=False, strip=False, empty_value=None)


class NewUserForm(UserForm):
    email = forms.EmailField()
    password = forms.CharField(min_length=8, strip=False)

    def clean_email(self) -> str:
        return self.cleaned_data["email"].lower()


class PageForm(forms.Form):
    limit = forms.IntegerField(min_value=1, max_value=1000, required=False)
    cursor = forms.IntegerField(required=False)


users = User.objects.order_by("pk").values(*FIELDS)


@async_only_middleware
def require_key(get_response: Callable) -> Callable:
    async def middleware(request: HttpRequest) -> HttpResponse:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        key_hash = hashlib.sha256(key.encode()).hexdigest()
        if scheme.lower() != "bearer" or not secrets.compare_digest(key_hash, KEY_HASH):
            return JsonResponse({"detail": "Invalid key"}, status=401)
        return await get_response(request)

    return middleware


def invalid(form: forms.Form) -> HttpResponse:
    return JsonResponse({"detail": form.errors.get_json_data()}, status=422)


class UserView(View):
    async def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        return JsonResponse(await aget_object_or_404(users, pk=pk))

    async def patch(self, request: HttpRequest, pk: int) -> HttpResponse:
        form = UserForm(json.loads(request.body))
        if not form.is_valid():
            return invalid(form)
        change = {**form.cleaned_data, "version": models.F("version") + 1, "updated_at": Now()}
        await User.objects.filter(pk=pk).aupdate(**change)
        return await self.get(request, pk)


class UsersView(View):
    async def get(self, request: HttpRequest) -> HttpResponse:
        form = PageForm(request.GET)
        if not form.is_valid():
            return invalid(form)
        limit, cursor = form.cleaned_data["limit"] or 100, form.cleaned_data["cursor"] or 0
        found = [user async for user in users.filter(pk__gt=cursor)[: limit + 1]]
        more = len(found) > limit
        next_cursor = str(found[limit - 1]["id"]) if more else None
        return JsonResponse({"users": found[:limit], "next_cursor": next_cursor})

    async def post(self, request: HttpRequest) -> HttpResponse:
        form = NewUserForm(json.loads(request.body))
        if not form.is_valid():
            return invalid(form)
        hashed = await asyncio.to_thread(hasher.hash, form.cleaned_data.pop("password"))
        try:
            user = await User.objects.acreate(**form.cleaned_data, hashed_password=hashed)
        except IntegrityError:
            return JsonResponse({"detail": "Email taken"}, status=409)
        public = {field: getattr(user, field) for field in FIELDS}
        return JsonResponse(public, status=201, headers={"Location": f"/users/{user.pk}"})


async def look_up_users(request: HttpRequest) -> HttpResponse:
    ids = json.loads(request.body)["ids"]
    if not 1 <= len(ids) <= 1000:
        return JsonResponse({"detail": "Expected 1 to 1000 ids"}, status=422)
    found = {user["id"]: user async for user in users.filter(pk__in=ids)}
    return JsonResponse({"users": [found.get(id_) for id_ in ids]})


urlpatterns = [
    path("users", UsersView.as_view()),
    path("users/lookup", look_up_users),
    path("users/<int:pk>", UserView.as_view()),
]
app = get_asgi_application()

"""`path("healthz/", include("eventbus.ext.django.urls"))`: the health views `eventbus:live` and `eventbus:ready`."""

from django.urls import path

from . import views

app_name = "eventbus"
urlpatterns = [path("live", views.live, name="live"), path("ready", views.ready, name="ready")]
